"""Accelerate (Vega) draws what the model draws without it, whatever else is patched into the model."""

from pathlib import Path

import comfy.hooks
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_freelunch import FreeU_V2
from graph_recorder import Recorder, draw, graphed
from unet_patches import PATCHES, hooked, steered
from vega_pack.vega import accelerate, checkpoint

import nodes as host_nodes

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
NANO_DIR = Path(checkpoint.NANO_DIR)


@pytest.fixture
def recorder():
    return Recorder()


def test_a_controlnet_runs_eagerly(few_step, positive, recorder):
    prompt = steered(few_step, positive)
    assert torch.equal(draw(graphed(few_step, recorder), prompt), draw(few_step, prompt))
    assert recorder.recorded == 0


@pytest.mark.parametrize("accelerated_first", [True, False])
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_a_patched_model_runs_eagerly(few_step, positive, recorder, patch, accelerated_first):
    draw(graphed(few_step, recorder), positive)  # graphs of the model as it is are there
    replayed = recorder.replayed
    patched = few_step.clone()
    patch(patched)
    if accelerated_first:
        fast = graphed(few_step, recorder).clone()
        patch(fast)
    else:
        fast = graphed(patched, recorder)
    assert torch.equal(draw(fast, positive), draw(patched, positive))
    assert recorder.replayed == replayed


def test_freeu_runs_eagerly(few_step, positive, recorder):
    (freed,) = FreeU_V2.execute(few_step, 1.3, 1.4, 0.9, 0.2).args
    assert torch.equal(draw(graphed(freed, recorder), positive), draw(freed, positive))
    assert recorder.recorded == 0


def test_a_hook_of_torch_runs_eagerly(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    plain = draw(fast, positive)
    replayed = recorder.replayed
    with hooked(few_step.model.diffusion_model.out):
        drawn = draw(fast, positive)
        assert torch.equal(drawn, draw(few_step, positive))
        assert not torch.allclose(drawn, plain, atol=1e-3)
    assert recorder.replayed == replayed


def style_lora(model, scale):
    key = "lora_unet_mid_block_resnets_0_conv1"
    weight = model.model.diffusion_model.middle_block[0].in_layers[2].weight
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(4, *weight.shape[1:], generator=generator) * scale
    return {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": torch.ones(len(weight), 4, 1, 1) * scale}


def test_a_bypass_lora_runs_eagerly(few_step, positive, recorder):
    plain = draw(few_step, positive)
    styled, _ = comfy.sd.load_bypass_lora_for_models(few_step, None, style_lora(few_step, 0.1), 1.0, 0.0)
    fast = graphed(styled, recorder)
    drawn = draw(fast, positive)
    assert torch.equal(drawn, draw(styled, positive))
    assert not torch.allclose(drawn, plain, atol=1e-3)
    assert recorder.recorded == 0
    fast = graphed(few_step, recorder)
    assert torch.equal(draw(fast, positive), plain)
    assert recorder.recorded == 1  # gone again, and so accelerated


def test_a_lora_hook_on_the_prompt_runs_eagerly(few_step, positive, recorder):
    hooks = comfy.hooks.create_hook_lora(style_lora(few_step, 0.1), 1.0, 0.0)
    hooked = [[context, {**options, "hooks": hooks}] for context, options in positive]
    fast = graphed(few_step, recorder)
    plain = draw(fast, positive)
    replayed = recorder.replayed
    drawn = draw(fast, hooked)
    assert recorder.replayed == replayed
    assert torch.equal(drawn, draw(few_step, hooked))
    assert not torch.allclose(drawn, plain, atol=1e-3)
    assert torch.equal(draw(fast, positive), plain)


def test_a_mask_and_two_areas_are_replayed(nano, few_step, positive, recorder):
    (left,) = host_nodes.ConditioningSetArea().append(positive, 32, 64, 0, 0, 1.0)
    fast = graphed(few_step, recorder)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    both = positive + left
    assert torch.equal(draw(fast, both, noise_mask=mask), draw(few_step, both, noise_mask=mask))
    assert recorder.replayed > 0


def test_a_hook_around_the_whole_unet_runs_at_replays_too(few_step, positive, recorder):
    fast = graphed(few_step, recorder)
    expected = draw(fast, positive)
    called = []
    handle = few_step.model.diffusion_model.register_forward_hook(lambda *_: called.append(1))
    replayed = recorder.replayed
    try:
        assert torch.equal(draw(fast, positive), expected)
    finally:
        handle.remove()
    assert len(called) == recorder.replayed - replayed == 3


def assert_close(drawn, expected):
    """Within rounding: what is compiled adds in another order."""
    assert (drawn - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.soak
def test_cores_compile_on_top_draws_the_same(few_step, positive, recorder):
    """TorchCompileModel compiles through our wrapper, which then steps aside."""
    fast = graphed(few_step, recorder)
    set_torch_compile_wrapper(fast, backend="eager")
    assert_close(draw(fast, positive), draw(few_step, positive))
    assert recorder.recorded == 0


def test_the_host_puts_nothing_else_into_the_options(few_step, positive):
    """accelerate.SAFE_OPTIONS is a list of the host's own keys: with one more, every call would run eagerly."""
    seen = set()

    def spy(executor, *args, **kwargs):
        answer = executor(*args, **kwargs)
        seen.update(args[5].keys())
        return answer

    spied = few_step.clone()
    spied.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    draw(spied, positive)
    assert seen == accelerate.SAFE_OPTIONS
