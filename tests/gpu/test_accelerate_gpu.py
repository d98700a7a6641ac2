"""Real CUDA graphs never give a stale picture, whatever happens to weights, sizes and memory in between."""

import os
import subprocess
import sys
from pathlib import Path

import comfy.model_management
import comfy.sample
import pytest
import torch
from vega_pack.vega import accelerate, checkpoint, lcm, lora

MIB = 2**20


@pytest.fixture
def few_step(nano):
    """With no graphs yet."""
    model = lora.apply(nano[0], checkpoint.NANO_LORA, 1.0)
    setattr(model.model, accelerate.PATCH_KEY, None)
    return model


def encoded(nano, text):
    return nano[1].encode_from_tokens_scheduled(nano[1].tokenize(text))


def draw(model, positive, seed=5, steps=4, batch=1, height=16, width=16, callback=None):
    latent = {"samples": torch.zeros(batch, 4, height, width)}
    return lcm.sample(model, seed, steps, positive, latent, 1.0, callback, disable_progress=True)["samples"]


def assert_same(drawn, expected):
    """Bit for bit, or within one rounding of fp16."""
    assert (drawn - expected).abs().max() <= 2**-10 * expected.abs().max()


def cache(model):
    return getattr(model.model, accelerate.PATCH_KEY)


def assert_accelerated(model, graphs):
    assert not cache(model).disabled
    assert len(cache(model).graphs) == graphs


SHAPES = [dict(), dict(batch=2), dict(height=24), dict(width=12), dict(batch=3, height=12)]


@pytest.mark.parametrize("mode", ["auto", "cuda graph", "compile"])
def test_a_replay_is_the_eager_picture(few_step, positive, mode):
    fast = accelerate.apply(few_step, mode)
    for seed in range(3):
        expected = draw(few_step, positive, seed=seed)
        drawn = draw(fast, positive, seed=seed)
        if mode == "compile":  # fused operations round otherwise, at each of four steps
            assert (drawn - expected).abs().max() <= 0.05 * expected.abs().max()
        else:
            assert_same(drawn, expected)
    assert_accelerated(fast, 1)


def test_sizes_and_batches_in_turns(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    for seed in range(3):
        for shape in SHAPES:
            assert_same(draw(fast, positive, seed=seed, **shape), draw(few_step, positive, seed=seed, **shape))
    assert_accelerated(fast, len(SHAPES))


def test_a_graph_for_each_prompt_length(nano, few_step):
    """Prompts of one length share a graph, and longer ones have their own."""
    fast = accelerate.apply(few_step, "auto")
    for text in ("night", "sea, dawn", "night, " * 60, "desert, " * 60, "sunset"):
        prompt = encoded(nano, text)
        assert_same(draw(fast, prompt), draw(few_step, prompt))
    assert_accelerated(fast, 2)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_core_samplers_with_guidance(nano, positive, sampler):
    model, negative = nano[0], encoded(nano, "sea")
    fast = accelerate.apply(model, "auto")

    def core(model):
        empty = torch.zeros(1, 4, 16, 16)
        noise = comfy.sample.prepare_noise(empty, 1)
        return comfy.sample.sample(
            model, noise, 6, 3.0, sampler, "normal", positive, negative, empty, disable_pbar=True, seed=1
        )

    for _ in range(2):
        assert_same(core(fast), core(model))
    assert not cache(fast).disabled


def test_a_changed_strength(nano, positive):
    for strength in (1.0, 0.5, 1.0, -0.25, 0.5, 1.0):
        model = lora.apply(nano[0], checkpoint.NANO_LORA, strength)
        fast = accelerate.apply(model, "auto")
        drawn = draw(fast, positive), draw(fast, positive)
        assert_accelerated(fast, 1)
        expected = draw(model, positive)
        for one in drawn:
            assert_same(one, expected)


def test_eviction_by_another_model(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    expected = draw(fast, positive)
    for _ in range(3):
        comfy.model_management.unload_all_models()
        assert_accelerated(fast, 0)
        other = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[0]
        comfy.model_management.load_models_gpu([other])
        torch.full((64 * MIB,), 1000.0, device="cuda")  # over what was freed
        assert_same(draw(fast, positive), expected)
    assert_accelerated(fast, 1)


def test_weights_partly_unloaded_by_the_host(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    expected = draw(fast, positive)
    fast.partially_unload(torch.device("cpu"), fast.model_size() // 2)
    cache(fast).on_pre_run(fast)
    assert_accelerated(fast, 0)
    torch.full((64 * MIB,), 1000.0, device="cuda")
    assert_same(draw(fast, positive), expected)


def test_weights_moved_behind_its_back(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    before = draw(fast, positive)
    weight = few_step.model.diffusion_model.out[2].weight
    kept = weight.data
    weight.data = weight.data + 0.01
    try:
        drawn = draw(fast, positive)
        assert_same(drawn, draw(few_step, positive))
        assert (drawn - before).abs().max() > 0.01
    finally:
        weight.data = kept
    assert_same(draw(fast, positive), before)


def test_an_interrupt_between_steps(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    expected = draw(few_step, positive)

    def interrupt(step, *_):
        if step == 1:
            comfy.model_management.interrupt_current_processing()

    for _ in range(2):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            draw(fast, positive, callback=interrupt)
        assert_same(draw(fast, positive), expected)
    assert_accelerated(fast, 1)


def test_an_interrupt_while_recording(few_step, positive, monkeypatch):
    expected = draw(few_step, positive)
    block = type(few_step.model.diffusion_model.input_blocks[0])
    forward = block.forward

    def interrupting(self, *args, **kwargs):
        if torch.cuda.is_current_stream_capturing():
            comfy.model_management.interrupt_current_processing()
        return forward(self, *args, **kwargs)

    fast = accelerate.apply(few_step, "auto")
    with monkeypatch.context() as patched, pytest.raises(comfy.model_management.InterruptProcessingException):
        patched.setattr(block, "forward", interrupting)
        draw(fast, positive)
    for _ in range(2):
        assert_same(draw(fast, positive), expected)
    assert_accelerated(fast, 1)


def test_a_recording_that_fails_leaves_everything_right(few_step, positive, monkeypatch, caplog):
    unet = type(few_step.model.diffusion_model)
    forward = unet._forward

    def waits_for_the_gpu(self, x, *args, **kwargs):
        x.sum().item()  # what no graph can hold
        return forward(self, x, *args, **kwargs)

    expected = draw(few_step, positive)
    fast = accelerate.apply(few_step, "auto")
    with monkeypatch.context() as patched:
        patched.setattr(unet, "_forward", waits_for_the_gpu)
        assert_same(draw(fast, positive), expected)
    assert cache(fast).disabled
    assert len([r for r in caplog.records if "Accelerate" in r.message]) == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    draw(fast, positive)
    torch.cuda.synchronize()
    used = torch.cuda.memory_allocated()
    for _ in range(50):
        assert_same(draw(fast, positive), expected)
    assert torch.cuda.memory_allocated() - used < MIB
    setattr(few_step.model, accelerate.PATCH_KEY, None)
    again = accelerate.apply(few_step, "auto")
    assert_same(draw(again, positive), expected)
    assert_accelerated(again, 1)  # the allocator has ended the recording that failed


def test_forgotten_graphs_give_their_memory_back(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    draw(fast, positive)
    cache(fast).clear()
    comfy.model_management.soft_empty_cache()
    torch.cuda.synchronize()
    before, _ = torch.cuda.mem_get_info()
    for width in range(16, 32):
        draw(fast, positive, batch=8, width=width)
    assert_accelerated(fast, 16)
    cache(fast).clear()
    comfy.model_management.soft_empty_cache()
    torch.cuda.synchronize()
    after, _ = torch.cuda.mem_get_info()
    assert before - after < 64 * MIB


def test_memory_is_bounded(few_step, positive, monkeypatch):
    memory = few_step.memory_required((1, 4, 16, 16))
    total = comfy.model_management.get_total_memory(few_step.load_device)
    monkeypatch.setattr(accelerate, "MEMORY_FRACTION", 2.5 * memory / total)
    fast = accelerate.apply(few_step, "auto")
    for _ in range(2):
        for width in (16, 15, 14, 13):
            assert_same(draw(fast, positive, width=width), draw(few_step, positive, width=width))
            assert not cache(fast).disabled
            assert 1 <= len(cache(fast).graphs) <= 3


def test_a_thousand_pictures_leak_nothing(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    expected = {}
    for i in range(1000):
        shape = SHAPES[i % len(SHAPES)]
        drawn = draw(fast, positive, seed=i % 7, **shape)
        if i >= len(SHAPES):  # the first of each were drawn in part without a graph
            assert torch.equal(expected.setdefault((i % 7, i % len(SHAPES)), drawn), drawn)
        if i == 50:
            torch.cuda.synchronize()
            used, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - used < MIB
    assert torch.cuda.memory_reserved() - reserved < 64 * MIB
    assert_accelerated(fast, len(SHAPES))


def test_compile_compiles_once(nano, positive):
    """One compilation serves every seed, prompt and strength."""
    other = encoded(nano, "sea")
    compiled = torch._dynamo.utils.counters["stats"]
    before = compiled["unique_graphs"]
    for strength, seed, prompt in ((1.0, 5, positive), (1.0, 6, positive), (1.0, 5, other), (0.5, 5, positive)):
        draw(accelerate.apply(lora.apply(nano[0], checkpoint.NANO_LORA, strength), "compile"), prompt, seed=seed)
        assert compiled["unique_graphs"] == before + 1
    assert not cache(nano[0]).disabled


def test_sampling_never_waits_for_the_gpu_between_its_steps(few_step, positive):
    fast = accelerate.apply(few_step, "auto")
    draw(fast, positive, steps=6)

    def watch(step, *_):
        torch.cuda.set_sync_debug_mode("default" if step == 5 else "error")

    try:
        for model in (fast, few_step):
            draw(model, positive, steps=6, callback=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_accelerated(fast, 1)


def test_the_allocator_is_the_one_asked_for():
    assert torch.cuda.get_allocator_backend() == ("cudaMallocAsync" if "VEGA_OTHER_ALLOCATOR" in os.environ else "native")


def test_all_of_it_with_the_allocator_that_the_host_chooses():
    """cudaMallocAsync, which ComfyUI takes from CUDA 13 on (cuda_malloc.py); pytest here runs with torch's own."""
    environment = {**os.environ, "VEGA_OTHER_ALLOCATOR": "1", "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", str(Path(__file__))]
    command += ["-k", "not with_the_allocator_that_the_host_chooses"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
