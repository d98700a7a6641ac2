"""Small UNets and the tiny decoder as OpenVINO graphs: the same pictures, made beside the drawing, kept on disk."""

import logging

import pytest
import torch
from graph_recorder import LORA, draw
from psnr import psnr
from vega_pack.vega import accelerate, checkpoint, cpu_calls, lcm, lora, openvino_graph, tiny_decoder
from vega_pack.vega.latent_formats import CPU_DTYPE_KEY

from dev import diffusers_folders as folders

pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("inference"),
    pytest.mark.skipif(openvino_graph.openvino is None, reason="OpenVINO is not installed (dev/requirements.txt has it)"),
]
BF16 = pytest.mark.skipif(not cpu_calls.supports_bf16(), reason="this processor has no bf16 arithmetic")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder of graphs for this file alone, empty at first."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def anew(nano, kept):
    yield
    setattr(nano[0].model, accelerate.KEY, None)


def assert_close(drawn, expected):
    assert (drawn - expected).abs().max() <= 1e-5 * expected.abs().max()


def calls(model) -> cpu_calls.CpuCalls:
    return getattr(model.model, accelerate.KEY).cpu


def graphed(model, positive, mode="auto"):
    """The accelerated model, its graph made."""
    fast = accelerate.apply(model, mode)
    draw(fast, positive)
    if calls(fast).thread:
        calls(fast).thread.join()
    return fast


def test_pictures_are_drawn_while_the_graph_is_made(few_step, positive):
    """The first call on a machine doesn't wait for the conversion; a later process finds the graph on disk."""
    expected = draw(few_step, positive)
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), expected)
    assert calls(fast).packed.forwards
    calls(fast).thread.join()
    assert len(calls(fast).graphs) == 1
    setattr(few_step.model, accelerate.KEY, None)
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), expected)
    assert not calls(fast).thread
    assert not calls(fast).packed.forwards


@pytest.mark.parametrize("size", [dict(height=13, width=17), dict(batch=3), dict(height=24, width=16)])
def test_one_graph_serves_every_size(few_step, positive, size):
    fast = graphed(few_step, positive)
    assert_close(draw(fast, positive, **size), draw(few_step, positive, **size))
    assert not calls(fast).packed.forwards or not calls(fast).thread
    assert not getattr(fast.model, accelerate.KEY).disabled


def test_a_longer_prompt_is_served(nano, few_step, positive):
    long = nano[1].encode_from_tokens_scheduled(nano[1].tokenize("night, " * 60))
    assert_close(draw(graphed(few_step, positive), long), draw(few_step, long))


def test_strengths_have_graphs_of_their_own(nano, positive):
    """Another strength is drawn on packed weights until its graph is there, and an old one's graph is found again."""
    for strength in (1.0, 0.5, 1.0, 0.5):
        plain = lora.apply(nano[0], LORA, strength)
        fast = accelerate.apply(plain, "auto")
        assert_close(draw(fast, positive), draw(plain, positive))
        if calls(fast).thread:
            calls(fast).thread.join()
        assert_close(draw(fast, positive), draw(plain, positive))
    assert len(calls(fast).graphs) == 2


def test_only_so_many_strengths_are_kept(nano, positive):
    for strength in range(cpu_calls.MAX_GRAPHS + 2):
        fast = graphed(lora.apply(nano[0], LORA, 0.5 + strength / 10), positive)
    assert len(calls(fast).graphs) == cpu_calls.MAX_GRAPHS


@pytest.mark.parametrize("family", ["SD 1.5", "SDXL"])
def test_other_small_unets_are_served(tmp_path, monkeypatch, family):
    monkeypatch.setattr(cpu_calls, "MAX_GRAPH_PARAMETERS", 50_000_000)
    folders.write(tmp_path, family)
    model, clip, _ = checkpoint.load(tmp_path, "tiny", [])
    model = model.clone()
    model.add_object_patch("model_sampling", lcm.LCMSampling(model.model.model_config))
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("night"))
    fast = graphed(model, prompt)
    assert calls(fast).graphs
    assert_close(draw(fast, prompt), draw(model, prompt))


def test_what_openvino_refuses_is_said_once(few_step, positive, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("Exception from src/core:\nno such operation")

    monkeypatch.setattr(openvino_graph, "Compiled", refuse)
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            fast = graphed(few_step, positive)
            assert_close(draw(fast, positive, seed=seed), draw(few_step, positive, seed=seed))
    told = [record.message for record in caplog.records if "OpenVINO" in record.message]
    assert told == ["Accelerate (Vega) draws without OpenVINO: Exception from src/core: no such operation"]


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (13, 21)])
def test_the_decoder_gives_the_same_pictures(nano, monkeypatch, installed, size):
    if not installed:
        monkeypatch.setattr(openvino_graph, "openvino", None)
    vae, z = nano[2], torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    expected = tiny_decoder.decode(vae, z)
    for _ in range(2):
        assert (tiny_decoder.decode(vae, z, None, torch.float32) - expected).abs().max() < 1e-5


@BF16
@pytest.mark.parametrize("installed", [True, False])
def test_bf16_pictures_are_near(nano, few_step, positive, monkeypatch, installed):
    """UNet and decoder in bf16: 50 dB and more from the exact pictures."""
    if not installed:
        monkeypatch.setattr(openvino_graph, "openvino", None)
    fast = graphed(few_step, positive, "bf16")
    for seed in range(4):
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        drawn = [lcm.sample(model, seed, 4, positive, latent, 1.0) for model in (fast, few_step)]
        dtypes = [samples.get(CPU_DTYPE_KEY) for samples in drawn]
        assert dtypes == [torch.bfloat16, None]
        one, other = (tiny_decoder.decode(nano[2], d["samples"], None, t) for d, t in zip(drawn, dtypes, strict=True))
        one, other = ((255 * picture).round().numpy() for picture in (one, other))
        assert 50 <= psnr(one, other) < 100
