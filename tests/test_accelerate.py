"""Accelerate (Vega) draws what the model draws without it: graphs kept, thrown away, and never made."""

import logging
import time
from pathlib import Path

import comfy.model_management
import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from graph_recorder import LORA, Recorder, draw, graphed
from vega_pack.nodes.accelerate import VegaAccelerate
from vega_pack.vega import accelerate, checkpoint, lcm, lora

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
NANO_DIR = Path(checkpoint.NANO_DIR)


@pytest.fixture
def recorder():
    return Recorder()


def test_replays_from_the_third_call_on_and_draws_the_same(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    assert torch.equal(draw(fast, positive), draw(few_step, positive))
    assert (recorder.recorded, recorder.replayed) == (1, 2)
    assert torch.equal(draw(fast, positive, seed=6), draw(few_step, positive, seed=6))
    assert (recorder.recorded, recorder.replayed) == (1, 5)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc", "lcm"])
def test_serves_every_sampler_with_guidance(nano, positive, recorder, sampler):
    model, clip, _ = nano
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("sea"))
    fast = graphed(model, recorder)

    def core(model):
        empty = torch.zeros(1, 4, 8, 8)
        noise = comfy.sample.prepare_noise(empty, 1)
        return comfy.sample.sample(
            model, noise, 4, 3.0, sampler, "normal", positive, negative, empty, disable_pbar=True, seed=1
        )

    assert torch.equal(core(fast), core(model))
    assert recorder.recorded == 1
    assert recorder.replayed >= 3


def test_sizes_and_batches_live_side_by_side(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    shapes = [dict(batch=1), dict(batch=2), dict(height=16), dict(width=16)]
    for _ in range(2):
        for shape in shapes:
            assert torch.equal(draw(fast, positive, **shape), draw(few_step, positive, **shape))
    assert recorder.recorded == len(shapes)


def test_memory_is_bounded_and_the_longest_unused_graph_goes(few_step, positive, recorder, monkeypatch):
    fast = graphed(few_step, recorder)
    two = 2 * few_step.memory_required((1, 4, 8, 8))
    monkeypatch.setattr(accelerate, "MEMORY_FRACTION", 1.1 * two / comfy.model_management.get_total_memory(fast.load_device))
    cache = getattr(fast.model, accelerate.PATCH_KEY)
    draw(fast, positive)
    draw(fast, positive, height=4, width=16)
    assert len(cache.graphs) == 2
    draw(fast, positive)  # used again, so that the other one has waited longer
    draw(fast, positive, height=16, width=4)
    assert len(cache.graphs) == 2
    before = recorder.recorded
    draw(fast, positive)
    assert recorder.recorded == before
    draw(fast, positive, batch=4)  # more than the bound for itself alone
    assert recorder.recorded == before


def test_longer_prompts_are_recorded_for_themselves(nano, few_step, recorder):
    clip = nano[1]
    fast = graphed(few_step, recorder)
    for text in ("night", "night, " * 60):
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        assert torch.equal(draw(fast, prompt), draw(few_step, prompt))
    assert recorder.recorded == 2


def test_a_changed_strength_is_noticed(nano, positive, recorder):
    for strength in (1.0, 0.5, 1.0, 0.25):
        model = lora.apply(nano[0], LORA, strength)
        fast = graphed(model, recorder)
        assert torch.equal(draw(fast, positive), draw(model, positive))
    assert recorder.recorded == 4
    assert len(getattr(nano[0].model, accelerate.PATCH_KEY).graphs) == 1


def test_one_accelerated_model_and_its_base_in_turns(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    style = few_step.clone()
    key = "diffusion_model.out.2.bias"
    style.add_patches({key: (torch.ones(4),)}, 1.0)
    faster_style = graphed(style, recorder)
    for _ in range(2):
        assert torch.equal(draw(fast, positive), draw(few_step, positive))
        assert torch.equal(draw(faster_style, positive), draw(style, positive))


def test_another_model_in_its_place_takes_the_graphs_away(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    expected = draw(fast, positive)
    comfy.model_management.unload_all_models()
    assert not getattr(fast.model, accelerate.PATCH_KEY).graphs
    assert torch.equal(draw(fast, positive), expected)
    assert recorder.recorded == 2


def test_weights_moved_behind_its_back_are_noticed(few_step, positive, recorder):
    """The host says nothing to anybody when it moves a part of the weights (ModelPatcher.partially_unload)."""
    fast = graphed(few_step, recorder)
    draw(fast, positive)
    weight = few_step.model.diffusion_model.out[2].weight
    weight.data = weight.data + 1
    assert torch.equal(draw(fast, positive), draw(few_step, positive))
    assert recorder.recorded == 2


def test_partly_loaded_weights_are_not_recorded(few_step, positive, recorder):
    """A CPU has room for all of them, so what the host says of such a model is said here."""
    fast = graphed(few_step, recorder)
    draw(fast, positive)
    assert accelerate.is_static(fast)
    fast.model.model_lowvram = True
    try:
        assert not accelerate.is_static(fast)
        getattr(fast.model, accelerate.PATCH_KEY).on_pre_run(fast)
        assert not getattr(fast.model, accelerate.PATCH_KEY).graphs
    finally:
        fast.model.model_lowvram = False


def test_a_failed_recording_draws_eagerly(few_step, positive, recorder, caplog):
    """Where a recording fails the picture is drawn all the same, and one warning says so."""
    recorder.broken = RuntimeError("operation not permitted when stream is capturing\nand more")
    fast = graphed(few_step, recorder)
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            assert torch.equal(draw(fast, positive, seed=seed), draw(few_step, positive, seed=seed))
    told = [record.message for record in caplog.records if "Accelerate" in record.message]
    assert told == [
        "Accelerate (Vega) leaves this model as it is from now on: operation not permitted when stream is capturing"
    ]


def test_without_memory_for_a_graph_the_next_one_is_tried(few_step, positive, recorder, caplog):
    fast = graphed(few_step, recorder)
    recorder.broken = torch.OutOfMemoryError("CUDA out of memory")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(draw(fast, positive), draw(few_step, positive))
    assert "as it is for this call: CUDA out of memory" in caplog.text
    recorder.broken = None
    assert torch.equal(draw(fast, positive), draw(few_step, positive))
    assert recorder.recorded == 1


def test_torch_can_end_a_failed_recording():
    """The private functions of torch that end a failed recording are there.

    torch.cuda.CUDAGraph.capture_end leaves the allocator recording where it fails; cuda_graph.end_recording ends that.
    """
    assert callable(torch._C._cuda_endAllocateToPool)
    assert callable(torch._C._cuda_releasePool)


def test_an_error_of_the_inputs_disables_nothing(few_step, positive, recorder):
    """An error of the inputs is the host's own, and later calls are accelerated."""
    fast = graphed(few_step, recorder)
    draw(fast, positive)
    unet = fast.model.diffusion_model
    cache = getattr(fast.model, accelerate.PATCH_KEY)
    cache.on_pre_run(fast)
    with pytest.raises(AssertionError, match="class-conditional"):
        unet(
            torch.zeros(1, 4, 8, 8),
            torch.ones(1),
            positive[0][0],
            transformer_options={"wrappers": {WrappersMP.DIFFUSION_MODEL: {accelerate.PATCH_KEY: [cache.wrapper]}}},
        )
    cache.on_cleanup(fast)
    assert not cache.disabled


def test_an_interrupt_passes_and_the_next_run_is_right(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    expected = draw(fast, positive)

    def interrupt(step, *_):
        if step == 1:
            comfy.model_management.interrupt_current_processing()

    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        lcm.sample(fast, 5, 3, positive, latent, 1.0, interrupt, disable_progress=True)
    assert torch.equal(draw(fast, positive), expected)


def test_outside_of_a_run_the_model_is_as_it_was(few_step, positive, recorder):
    """Another node may call the UNet by itself, with weights that nobody has looked at."""
    fast = graphed(few_step, recorder)
    draw(fast, positive)
    assert getattr(fast.model, accelerate.PATCH_KEY).patcher is None


def test_training_runs_eagerly(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    fast.model.requires_grad_(False)  # newer hosts do; these weights are inference tensors
    with torch.inference_mode(False), torch.enable_grad():
        context = [[c.clone(), {k: v.clone() for k, v in o.items()}] for c, o in positive]
        draw(fast, context)
    assert recorder.recorded == 0


def assert_close(drawn, expected):
    """Within rounding: what is compiled adds in another order."""
    assert (drawn - expected).abs().max() <= 1e-4 * expected.abs().max()


def graphs_compiled():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_compile_compiles_once_and_draws_the_same(nano, positive):
    """One compilation draws the same for every seed, prompt and strength.

    With dynamo alone; what inductor makes of it is in the soak test and in tests/gpu.
    """
    model, clip, _ = nano
    other = clip.encode_from_tokens_scheduled(clip.tokenize("sea"))
    with torch.compiler.set_stance("default", force_backend="eager"):
        before = graphs_compiled()
        for strength, seed, prompt in ((1.0, 5, positive), (1.0, 6, positive), (1.0, 5, other), (0.5, 5, positive)):
            plain = lora.apply(model, LORA, strength)
            fast = accelerate.apply(plain, "compile")
            assert_close(draw(fast, prompt, seed=seed), draw(plain, prompt, seed=seed))
            assert graphs_compiled() == before + 1
    assert not getattr(model.model, accelerate.PATCH_KEY).disabled


@pytest.mark.soak
def test_inductor_draws_the_same(few_step, positive, record_property):
    fast = accelerate.apply(few_step, "compile")
    began = time.perf_counter()
    drawn = draw(fast, positive)
    record_property("first_picture_seconds", round(time.perf_counter() - began, 1))
    assert_close(drawn, draw(few_step, positive))
    assert not getattr(few_step.model, accelerate.PATCH_KEY).disabled


def test_twice_is_once_and_off_takes_it_away(few_step, positive, recorder):
    twice = graphed(graphed(few_step, recorder), recorder)
    assert torch.equal(draw(twice, positive), draw(few_step, positive))
    assert recorder.recorded == 1
    (off,) = VegaAccelerate.execute(twice, "off").args
    replayed = recorder.replayed
    draw(off, positive)
    assert recorder.replayed == replayed


def test_without_a_gpu_cuda_graph_says_so(few_step, positive, caplog):
    few_step = few_step.clone()
    few_step.load_device = torch.device("cpu")
    with caplog.at_level(logging.INFO):
        assert VegaAccelerate.execute(few_step, "off")[0] is few_step
        assert caplog.records == []
        drawn = draw(VegaAccelerate.execute(few_step, "cuda graph")[0], positive)
    assert torch.equal(drawn, draw(few_step, positive))
    assert len([record for record in caplog.records if "Accelerate" in record.message]) == 1
