"""Small UNets and the tiny decoder as OpenVINO graphs: the same pictures, made beside the drawing, kept on disk."""

import copy

import psutil
import pytest
import torch
from cpu_drawing import assert_close, cpu_unet_of, forget, graphed, needs_bf16, states
from graph_recorder import LORA, draw
from psnr import psnr
from vega_pack.vega import (
    accelerate,
    checkpoint,
    cpu_decoder,
    cpu_unet,
    heap,
    lcm,
    lora,
    model_sampling,
    openvino_graph,
    tiny_decoder,
)
from vega_pack.vega.latent_formats import CPU_DTYPE_KEY

from dev import diffusers_folders as folders

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference", "graph_cache", "reset_cpu_unet")]


@pytest.mark.soak
def test_no_home_folder_is_no_error(few_step, positive, monkeypatch, nano):
    """Where the graphs can't be kept all is drawn without OpenVINO."""

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(openvino_graph.Path, "home", nowhere)
    cpu_decoder.cpu_decoders.clear()
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), draw(few_step, positive))
    assert states(fast, positive) == {"packed"}
    z = torch.zeros(1, 4, 8, 8)
    assert torch.allclose(tiny_decoder.decode(nano[2], z, None, torch.float32), tiny_decoder.decode(nano[2], z), atol=1e-5)
    cpu_decoder.cpu_decoders.clear()


def test_pictures_are_drawn_while_the_graph_is_made(few_step, positive):
    """The first call on a machine doesn't wait for the conversion; a later process finds the graph on disk."""
    expected = draw(few_step, positive)
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), expected)
    assert cpu_unet_of(fast).packed.forwards
    cpu_unet_of(fast).thread.join()
    assert_close(draw(fast, positive), expected)
    assert len(cpu_unet_of(fast).graphs) == 1
    forget(few_step)
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), expected)
    assert not cpu_unet_of(fast).thread
    assert not cpu_unet_of(fast).packed.forwards


@pytest.mark.parametrize("size", [dict(height=13, width=17), dict(batch=3), dict(height=24, width=16), dict(height=8)])
def test_one_graph_serves_other_sizes(few_step, positive, size):
    fast = graphed(few_step, positive)
    assert_close(draw(fast, positive, **size), draw(few_step, positive, **size))
    assert states(fast, positive, **size) == {"openvino"}
    assert len(cpu_unet_of(fast).graphs) == 1


@pytest.mark.parametrize("side", [16, 24, 32])
def test_the_models_own_sizes_have_graphs_of_their_own(few_step, positive, side):
    own = dict(height=side, width=side, steps=2)
    fast = graphed(few_step, positive)
    for size in (own, {**own, "batch": 2}):
        assert_close(draw(fast, positive, **size), draw(few_step, positive, **size))
    assert states(fast, positive, **own) == {"openvino"}
    assert len(cpu_unet_of(fast).graphs) == 2


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("state", ["openvino", "packed"])
def test_a_call_is_rounded_as_torchs_are(few_step, positive, monkeypatch, state, side):
    """Within the factor that other orders of its sums cost, 3, at the first timestep: a picture divides by 0.068 there."""
    monkeypatch.setattr(openvino_graph, "INSTALLED", state == "openvino")
    fast = graphed(few_step, positive)
    ((context, prompt),) = positive
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    y = few_step.model.encode_adm(**prompt, width=8 * side, height=8 * side)
    unet = few_step.model.diffusion_model
    inputs = x, torch.tensor([999.0]), context, y
    exact = copy.deepcopy(unet).double()(x.double(), inputs[1], context.double(), y.double())
    found, told = cpu_unet_of(fast)(fast, unet, *inputs)
    assert told == state
    assert (found - exact).norm() <= 4 * (unet(*inputs) - exact).norm()


def test_a_longer_prompt_is_served(nano, few_step, positive):
    long = nano[1].encode_from_tokens_scheduled(nano[1].tokenize("night, " * 60))
    assert_close(draw(graphed(few_step, positive), long), draw(few_step, long))


@pytest.mark.soak
def test_strengths_have_graphs_of_their_own(nano, positive):
    """An old strength's graph is found again, and its pictures are the same to the last bit."""
    drawn = {}
    for strength in (1.0, 0.5, 1.0, 0.5):
        plain = lora.apply(nano[0], LORA, strength)
        fast = graphed(plain, positive)
        picture = draw(fast, positive)
        assert_close(picture, draw(plain, positive))
        assert torch.equal(drawn.setdefault(strength, picture), picture)
    assert len(cpu_unet_of(fast).graphs) == 2


@pytest.mark.soak
def test_only_so_many_graphs_are_kept(nano, positive, monkeypatch):
    monkeypatch.setattr(cpu_unet, "MAX_GRAPHS", 2)
    for strength in range(cpu_unet.MAX_GRAPHS + 2):
        fast = graphed(lora.apply(nano[0], LORA, 0.5 + strength / 10), positive)
    assert len(cpu_unet_of(fast).graphs) == cpu_unet.MAX_GRAPHS


@pytest.mark.soak
@pytest.mark.parametrize("family", ["tiny-sd", "SD 1.5", "SDXL"])
def test_other_small_unets_are_served(tmp_path, monkeypatch, family):
    monkeypatch.setattr(cpu_unet, "MAX_SMALL_PARAMETERS", 50_000_000)
    folders.write(tmp_path, family)
    model, clip, _ = checkpoint.load(tmp_path, "tiny", [])
    model = model.clone()
    model.add_object_patch("model_sampling", model_sampling.LCMSampling(model.model.model_config))
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("night"))
    fast = graphed(model, prompt)
    assert cpu_unet_of(fast).graphs
    assert_close(draw(fast, prompt), draw(model, prompt))


def test_a_picture_of_a_batch_is_what_it_is_alone(nano, few_step, positive):
    """To the last bit, in the UNet and in the decoder."""
    fast, vae = graphed(few_step, positive), nano[2]
    decoder = vae.first_stage_model.taesd_decoder
    tiny_decoder.decode(vae, torch.zeros(1, 4, 8, 8), None, torch.float32)
    if thread := cpu_decoder.cpu_decoders[decoder][torch.float32].thread:
        thread.join()
    batch = draw(fast, positive, batch=3)
    alone = [draw(fast, positive, seed=5 + k) for k in range(3)]
    assert torch.equal(batch, torch.cat(alone))
    assert torch.equal(
        tiny_decoder.decode(vae, batch, None, torch.float32),
        torch.cat([tiny_decoder.decode(vae, one, None, torch.float32) for one in alone]),
    )


def test_a_picture_is_drawn_in_one_way(few_step, positive):
    """A graph that is ready within a picture waits for the next one."""
    fast, told = accelerate.apply(few_step, "auto"), []
    accelerate.get_cache(fast).report = lambda state, *_: told.append(state)
    cpu_unet.graph_file(few_step.model.model_config.unet_config).unlink(missing_ok=True)
    for expected in ("packed", "openvino"):
        lcm.sample(
            fast,
            1,
            3,
            positive,
            {"samples": torch.zeros(1, 4, 8, 8)},
            1.0,
            callback=lambda *_: cpu_unet_of(fast).thread and cpu_unet_of(fast).thread.join(),
            disable_progress=True,
        )
        assert set(told) == {expected}
        told.clear()
    assert not cpu_unet_of(fast).packed.forwards  # nobody needs them any more


def test_a_decoder_changed_in_place_is_noticed(nano):
    vae, z = nano[2], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = vae.first_stage_model.taesd_decoder[1].weight
    before = tiny_decoder.decode(vae, z, None, torch.float32)
    weight.mul_(0.5)
    try:
        changed = tiny_decoder.decode(vae, z, None, torch.float32)
        assert (changed - tiny_decoder.decode(vae, z)).abs().max() < 1e-5
    finally:
        weight.mul_(2)
    assert not torch.allclose(changed, before, atol=1e-2)


def test_a_large_picture_leaves_no_memory_behind(nano):
    """OpenVINO keeps what its largest call needed until it is told to give that back."""
    vae, process = nano[2], psutil.Process()
    small, large = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 80, 80)
    for z in (small, large):
        tiny_decoder.decode(vae, z, None, torch.float32)
        if thread := cpu_decoder.cpu_decoders[vae.first_stage_model.taesd_decoder][torch.float32].thread:
            thread.join()
    tiny_decoder.decode(vae, small, None, torch.float32)
    heap.trim()
    before = process.memory_info().rss
    tiny_decoder.decode(vae, large, None, torch.float32)
    heap.trim()
    assert process.memory_info().rss - before < 50 * 2**20


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (13, 21)])
def test_the_decoder_gives_the_same_pictures(nano, monkeypatch, installed, size):
    if not installed:
        monkeypatch.setattr(openvino_graph, "INSTALLED", False)
    cpu_decoder.cpu_decoders.clear()
    vae, z = nano[2], torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    expected = tiny_decoder.decode(vae, z)
    assert (tiny_decoder.decode(vae, z, None, torch.float32) - expected).abs().max() < 1e-5
    calls = cpu_decoder.cpu_decoders[vae.first_stage_model.taesd_decoder][torch.float32]
    if calls.thread:
        calls.thread.join()
    assert bool(calls.graph) == installed
    assert (tiny_decoder.decode(vae, z, None, torch.float32) - expected).abs().max() < 1e-5


@needs_bf16
@pytest.mark.parametrize("installed", [True, False])
def test_bf16_pictures_are_near(nano, few_step, positive, monkeypatch, installed):
    """The decoder in bf16: 50 dB and more from the exact pictures."""
    if not installed:
        monkeypatch.setattr(openvino_graph, "INSTALLED", False)
    fast = graphed(few_step, positive, "bf16")
    for seed in range(4):
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        drawn = [lcm.sample(model, seed, 4, positive, latent, 1.0) for model in (fast, few_step)]
        dtypes = [samples.get(CPU_DTYPE_KEY) for samples in drawn]
        assert dtypes == [torch.bfloat16, None]
        one, other = (tiny_decoder.decode(nano[2], d["samples"], None, t) for d, t in zip(drawn, dtypes, strict=True))
        one, other = ((255 * picture).round().numpy() for picture in (one, other))
        assert 50 <= psnr(one, other) < 100
