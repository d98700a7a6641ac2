"""Accelerate (Vega) on a processor draws what the model draws without it: on packed weights and as OpenVINO graphs."""

import gc
import logging
import weakref

import comfy.model_management
import comfy.sample
import pytest
import torch
from comfy.ldm.modules import attention
from cpu_drawing import assert_close, cpu_unet_of, graphed, needs_bf16
from graph_recorder import LORA, draw
from vega_pack.vega import accelerate, checkpoint, cpu_unet, lcm, lora, packed_layers
from vega_pack.vega.latent_formats import CPU_DTYPE_KEY

from bench import processor
from dev import diffusers_folders as folders

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference", "graph_cache", "reset_cpu_unet")]


def packs(model) -> int:
    return len(cpu_unet_of(model).packed.forwards)


def core(model, size=(8, 12), steps=2):
    """[1, 4, *size] by the host's own sampler with guidance, for a base model of any family."""
    features = model.model.model_config.unet_config["context_dim"]
    torch.manual_seed(1)
    prompts = [[[torch.randn(1, 77, features), {"pooled_output": torch.randn(1, 64)}]] for _ in range(2)]
    empty = torch.zeros(1, 4, *size)
    noise = comfy.sample.prepare_noise(empty, 1)
    return comfy.sample.sample(model, noise, steps, 3.0, "euler", "normal", *prompts, empty, disable_pbar=True, seed=1)


def load(folder, family, bias):
    """A MODEL of the family; the bias of its last layer tells one from another."""
    folders.write(folder, family)
    model = checkpoint.load(folder, "tiny", [])[0].clone()
    model.add_patches({"diffusion_model.out.2.bias": (bias * torch.ones(4),)}, 1.0)
    return model


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[] if f in ("Segmind-Vega", "tiny-sd") else pytest.mark.soak) for f in folders.FAMILIES],
)
def test_packed_layers_give_what_every_family_gives(tmp_path, without_openvino, family):
    """Two models in turn, and sizes that the weights were not packed at."""
    models = [load(tmp_path / str(bias), family, bias) for bias in (0.0, 1.0)]
    for size in ((8, 12), (16, 8)):
        for model in models:
            fast = accelerate.apply(model, "auto")
            assert_close(core(fast, size), core(model, size))
            assert packs(fast) > 50
            assert not accelerate.get_cache(fast).disabled
    assert not torch.allclose(*(core(accelerate.apply(model, "auto")) for model in models), atol=0.1)


def test_a_changed_strength_is_packed_anew(nano, positive, without_openvino):
    drawn = []
    for strength in (1.0, 0.5, 1.0):
        plain = lora.apply(nano[0], LORA, strength)
        drawn.append(draw(accelerate.apply(plain, "auto"), positive))
        assert_close(drawn[-1], draw(plain, positive))
    assert not torch.allclose(*drawn[:2], atol=0.01)
    assert torch.equal(drawn[0], drawn[2])


def test_the_model_is_as_it_was_after_each_call(few_step, positive, without_openvino):
    fast = accelerate.apply(few_step, "auto")
    draw(fast, positive)
    assert packs(fast)
    assert not any("forward" in vars(module) for module in few_step.model.diffusion_model.modules())


def test_a_second_pass_decodes_as_it_was_drawn(few_step, positive):
    """bf16 of the first pass isn't left in the latent of a second one without it."""
    first = {"samples": torch.zeros(1, 4, 8, 8), CPU_DTYPE_KEY: torch.bfloat16}
    assert CPU_DTYPE_KEY not in lcm.sample(few_step, 5, 2, positive, first, 1.0, disable_progress=True)


def test_torchs_private_operations_are_there():
    """vega/packed_layers.py calls them; without them the pack says so once and draws eagerly."""
    for name in ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise"):
        assert callable(getattr(torch.ops.mkldnn, name))


def test_without_them_it_draws_eagerly_and_says_so(few_step, positive, without_openvino, monkeypatch, caplog):
    """Where a private operation is gone the picture is drawn all the same, and one warning says so."""

    def raise_missing(layer, weight):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(packed_layers, "pack_linear", raise_missing)
    fast = accelerate.apply(few_step, "auto")
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            assert torch.equal(draw(fast, positive, seed=seed), draw(few_step, positive, seed=seed))
    told = [record.message for record in caplog.records if "Accelerate" in record.message]
    assert len(told) == 1
    assert "leaves this model as it is from now on: '_OpNamespace' 'mkldnn'" in told[0]


def test_an_interrupt_stops_within_a_call(few_step, positive, without_openvino):
    fast = accelerate.apply(few_step, "auto")
    expected = draw(fast, positive)
    layer, forward = cpu_unet_of(fast).packed.forwards[20]

    def interrupt(x):
        comfy.model_management.interrupt_current_processing()
        return forward(x)

    cpu_unet_of(fast).packed.forwards[20] = layer, interrupt
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw(fast, positive)
    cpu_unet_of(fast).packed.forwards[20] = layer, forward
    assert torch.equal(draw(fast, positive), expected)


@pytest.mark.parametrize("mode", ["auto", pytest.param("bf16", marks=needs_bf16)])
def test_where_memory_is_short_nothing_is_packed(few_step, positive, without_openvino, monkeypatch, mode):
    """What the host says is free stands for a small machine's memory."""
    weights = sum(weight.nbytes for weight in few_step.model.diffusion_model.parameters())
    for factor, packed in ((1.4, False), (1.6, True)):
        free = factor * weights

        def get_free_memory(device=None, torch_free_too=False, free=free):
            return (free, free) if torch_free_too else free

        with monkeypatch.context() as patched:
            patched.setattr(comfy.model_management, "get_free_memory", get_free_memory)
            fast = accelerate.apply(few_step, mode)
            assert_close(draw(fast, positive), draw(few_step, positive))
            assert bool(packs(fast)) == packed


@needs_bf16
def test_one_mode_makes_room_for_the_other(few_step, positive, monkeypatch):
    monkeypatch.setattr(cpu_unet, "MAX_SMALL_PARAMETERS", 0)  # as of a large UNet
    exact, fast = (accelerate.apply(few_step, mode) for mode in ("auto", "bf16"))
    draw(exact, positive)

    def get_free_memory(device=None, torch_free_too=False):
        free = 0 if packs(exact) else 2**40
        return (free, free) if torch_free_too else free

    monkeypatch.setattr(comfy.model_management, "get_free_memory", get_free_memory)
    draw(fast, positive)
    assert packs(fast) > 50
    assert not packs(exact)


def test_unloading_and_off_give_the_memory_back(few_step, positive, without_openvino):
    for give_back in (comfy.model_management.unload_all_models, lambda: accelerate.apply(few_step, "off")):
        fast = accelerate.apply(few_step, "auto")
        draw(fast, positive)
        kept = [weakref.ref(forward) for _, forward in cpu_unet_of(fast).packed.forwards]
        assert len(kept) > 50
        give_back()
        gc.collect()
        assert not any(ref() for ref in kept)


@pytest.mark.soak
def test_off_gives_the_memory_back_to_the_system(record_property):
    """With Segmind-Vega's shapes, to within 5 % of what was resident before."""
    before, *kept, after = processor.resident_mib(processor.vega_unet(), size=128)
    for name, mib in {"before": before, "kept": max(kept), "after": after}.items():
        record_property(f"resident_{name}_mib", round(mib))
    assert max(kept) > 1.3 * before
    assert after <= 1.05 * before


def test_the_users_choice_of_attention_is_kept(few_step, positive, without_openvino, monkeypatch):
    """--use-quad-cross-attention and --use-split-cross-attention are somebody's wish."""
    seen = []
    pytorch = attention.attention_pytorch
    monkeypatch.setattr(attention, "attention_pytorch", lambda *a, **k: seen.append(1) or pytorch(*a, **k))
    draw(accelerate.apply(few_step, "auto"), positive)
    assert seen
    seen.clear()
    monkeypatch.setattr(cpu_unet.args, "use_quad_cross_attention", True)
    draw(accelerate.apply(few_step, "auto"), positive)
    assert not seen


@needs_bf16
@pytest.mark.parametrize("small", [True, False])
def test_two_modes_of_one_model_in_turn(few_step, positive, monkeypatch, small):
    """Each goes on with what it has made; the memory of both is given back."""
    if not small:
        monkeypatch.setattr(cpu_unet, "MAX_SMALL_PARAMETERS", 0)
    fast, faster = (graphed(few_step, positive, mode) for mode in ("auto", "bf16"))
    drawn = [draw(model, positive) for model in (fast, faster, fast, faster)]
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[1], drawn[3])
    assert_close(drawn[0], draw(few_step, positive))
    assert cpu_unet_of(fast) is not cpu_unet_of(faster)
    if not small:
        assert packs(fast) == packs(faster) > 50
        assert not torch.equal(drawn[0], drawn[1])
    comfy.model_management.unload_all_models()
    assert packs(fast) == packs(faster) == 0


@needs_bf16
def test_bf16_changes_pictures_slightly(few_step, positive, monkeypatch):
    """Those of a large UNet, for which vega-nano's stands."""
    monkeypatch.setattr(cpu_unet, "MAX_SMALL_PARAMETERS", 0)
    drawn = draw(accelerate.apply(few_step, "bf16"), positive)
    exact = draw(few_step, positive)
    error = (drawn - exact).abs().max() / exact.abs().max()
    assert 1e-4 < error < 5e-2


@needs_bf16
def test_a_small_unet_is_exact_in_bf16(few_step, positive, without_openvino):
    """It would be hardly faster, and some pictures would be others."""
    fast = accelerate.apply(few_step, "bf16")
    assert_close(draw(fast, positive), draw(few_step, positive))
    assert packs(fast) > 50


def test_bf16_is_refused_where_the_chip_has_none(few_step, monkeypatch):
    monkeypatch.setattr(cpu_unet, "supports_bf16", lambda: False)
    with pytest.raises(ValueError, match="needs a processor with AVX512-BF16, .* this one has none: set mode to auto"):
        accelerate.apply(few_step, "bf16")


@pytest.mark.parametrize("device", ["mps", "xpu", "privateuseone:0", "cuda"])
def test_auto_leaves_other_devices_alone(few_step, monkeypatch, device):
    """The name stands for Apple's, Intel's, DirectML's and AMD's devices, of which none is here."""
    monkeypatch.setattr(comfy.model_management, "is_nvidia", lambda: False)
    there = few_step.clone()
    there.load_device = torch.device(device)
    assert accelerate.apply(there, "auto") is there
    with pytest.raises(ValueError, match=f"the model is on {device}"):
        accelerate.apply(there, "bf16")
