"""LoRAs of Stable Diffusion 1.5 on small-sd and tiny-sd, against merges by hand."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lora_files import (
    ALPHA,
    RANK,
    check_merge,
    kohya,
    made_from,
    matrices,
    matrices_of,
    native_names,
    peft,
    weights_of,
    written,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from sd15 import attention, each_small, randomized
from transformers import CLIPTextModel
from vega_pack.vega import checkpoint, lcm, lora, style_lora, unet

from dev import diffusers_folders as folders

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]


def text_keys():
    generator = torch.Generator().manual_seed(5)
    mlp = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    down, up = torch.randn(RANK, 64, generator=generator), torch.randn(128, RANK, generator=generator)
    return {f"{mlp}.lora_down.weight": down, f"{mlp}.lora_up.weight": up, f"{mlp}.alpha": torch.tensor(ALPHA)}


STYLES = {
    "kohya": (lambda pairs: kohya(pairs)[0], ALPHA / RANK),
    "kohya, Stability's names": (lambda pairs: kohya(pairs, native_names("SD 1.5"))[0], ALPHA / RANK),
    "PEFT": (lambda pairs: peft(pairs, metadata=False)[0], 1.0),
}


@each_small
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("convolutions", [False, True])
def test_a_lora_of_sd_15_is_mapped(small, tmp_path, family, style, convolutions):
    modules, model, _ = small[family]
    pairs = matrices_of("SD 1.5")
    pairs = pairs if convolutions else attention(pairs)
    write, scale = STYLES[style]
    path = written(tmp_path / "watercolour.safetensors", write(pairs))
    patched, _, applied = style_lora.apply(model, None, path, 0.5, 1.0)
    targets = [n for n in matrices(modules["unet"]) if made_from(n, family) in pairs]
    expected = {name: pairs[made_from(name, family)] for name in targets}
    check_merge(model, patched, modules["unet"], expected, lambda name: 0.5 * scale)
    assert f"{len(targets)} of {len(pairs)} UNet modules" in applied.summary
    left_out = len(pairs) - len(targets)
    assert f"the other {left_out} are for blocks that {family} with 64 channels leaves out" in applied.summary
    assert (applied.modules, applied.modules_in_file) == (len(targets), len(pairs))
    lora.sd15_blocks.check_patches(patched)


@each_small
@pytest.mark.parametrize("convolutions", [False, True])
def test_a_lora_of_the_models_own_stays_where_it_was_trained(small, tmp_path, family, convolutions):
    modules, model, _ = small[family]
    pairs = matrices(modules["unet"])
    pairs = pairs if convolutions else attention(pairs)
    path = written(tmp_path / "own.safetensors", kohya(pairs)[0])
    patched, _, applied = style_lora.apply(model, None, path, 1.0, 1.0)
    check_merge(model, patched, modules["unet"], pairs, lambda name: ALPHA / RANK)
    assert f"{len(pairs)} of {len(pairs)} UNet modules" in applied.summary


def test_one_that_fits_both_is_asked_about(small, tmp_path):
    modules, model, _ = small["small-sd"]
    name = "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q"
    pairs = {name: matrices(modules["unet"])[name]}
    path = written(tmp_path / "part.safetensors", kohya(pairs)[0])
    with pytest.raises(ValueError, match="can't be told .* set made_for"):
        style_lora.apply(model, None, path, 1.0, 1.0)
    patched, _, _ = style_lora.apply(model, None, path, 1.0, 1.0, "this model")
    check_merge(model, patched, modules["unet"], pairs, lambda name: ALPHA / RANK)
    with pytest.raises(ValueError, match="only blocks of Stable Diffusion 1.5 that small-sd"):
        style_lora.apply(model, None, path, 1.0, 1.0, "Stable Diffusion 1.5")


def test_its_text_keys_reach_the_text_encoder(small, tmp_path):
    modules, model, clip = small["small-sd"]
    pairs = attention(matrices_of("SD 1.5"))
    path = written(tmp_path / "style.safetensors", kohya(pairs)[0] | text_keys())
    _, styled, applied = style_lora.apply(model, clip, path, 1.0, 0.5)
    assert "1 modules of text encoders" in applied.summary
    encoder: CLIPTextModel = modules["text_encoder"]
    linear = next(m for n, m in encoder.named_modules() if n.endswith("layers.0.mlp.fc1"))
    _, down, up = None, *list(text_keys().values())[:2]
    linear.weight.data += 0.5 * ALPHA / RANK * up @ down
    ids = torch.tensor([[token for token, _ in styled.tokenize("a lake")["l"][0]]])
    got = styled.encode_from_tokens(styled.tokenize("a lake"))
    try:
        assert (got - encoder(ids).last_hidden_state).abs().max() < 1e-4
    finally:
        linear.weight.data -= 0.5 * ALPHA / RANK * up @ down
    assert "no clip is connected" in style_lora.apply(model, None, path, 1.0, 1.0)[2].summary


def test_a_text_encoders_lora_that_diffusers_saved_has_its_alpha(small, tmp_path):
    """Its alpha is in the file's metadata alone; the oracle is the encoder with PEFT's adapter in it."""
    _, model, clip = small["small-sd"]
    encoder = folders.modules("small-sd")["text_encoder"]
    with torch.inference_mode(False):
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        encoder.add_adapter(config)
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            text_encoder_lora_layers=get_peft_model_state_dict(encoder),
            text_encoder_lora_adapter_metadata=config.to_dict() | {"target_modules": ["q_proj", "v_proj"]},
        )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    _, styled, _ = style_lora.apply(model, clip, path, 1.0, 1.0)
    tokens = styled.tokenize("a lake")
    ids = torch.tensor([[token for token, _ in tokens["l"][0]]])
    expected = encoder(ids).last_hidden_state
    plain = clip.encode_from_tokens(tokens)
    assert (styled.encode_from_tokens(tokens) - expected).abs().max() < 1e-4
    assert (plain - expected).abs().max() > 1e-2


def test_peft_keys_of_a_style_are_applied_whole(tmp_path):
    """Every module of a style in PEFT's keys is applied.

    As peft and diffusers write them; the host's Load LoRA takes those of attention for others'.
    """
    with torch.inference_mode(False):
        reference = folders.unet("Segmind-Vega")
        reference.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        randomized(reference, 0.02)
        StableDiffusionXLPipeline.save_lora_weights(
            tmp_path, unet_lora_layers=get_peft_model_state_dict(reference), safe_serialization=True
        )
        pairs = {}
        for name, module in reference.named_modules():
            if hasattr(module, "lora_A"):
                pairs[name] = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
    folders.write(tmp_path / "model", "Segmind-Vega")
    model, _, _ = checkpoint.load(tmp_path / "model", "tiny", [])
    path = tmp_path / "pytorch_lora_weights.safetensors"
    patched, _, _ = style_lora.apply(model, None, path, 1.0, 1.0)
    check_merge(model, patched, folders.modules("Segmind-Vega")["unet"], pairs, lambda name: 1.0)


def test_a_style_of_another_base_is_refused(small, tmp_path):
    sdxl = written(tmp_path / "sdxl.safetensors", kohya(attention(matrices_of("SDXL")))[0])
    for family, words in (
        ("small-sd", "fit neither small-sd"),
        ("SD 1.5", "are not in the model, which is Stable"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            style_lora.apply(small[family][1], None, sdxl, 1.0, 1.0)
        assert str(sdxl) in str(error.value)
    tensors = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 64)}
    path = written(tmp_path / "text.safetensors", tensors)
    with pytest.raises(ValueError, match="weights for text encoders are not for this model's"):
        style_lora.apply(*small["small-sd"][1:], path, 1.0, 1.0)


@pytest.mark.parametrize("model_family", ["tiny-sd", "SD 1.5"])
def test_a_lora_made_for_a_relative_is_refused(small, tmp_path, model_family):
    """small-sd's attentions.1 was SD 1.5's attentions.2: by SD 1.5's names half of it would be in other blocks."""
    path = written(tmp_path / "own.safetensors", kohya(attention(matrices_of("small-sd")))[0])
    with pytest.raises(ValueError, match="was made for small-sd, by its modules"):
        style_lora.apply(small[model_family][1], None, path, 1.0, 1.0)


@pytest.mark.parametrize(
    "damage", ["one matrix", "flat", "text: one matrix", "text: other width", "text: two alphas", "text: diff"]
)
def test_a_damaged_style_is_refused_in_a_sentence(small, tmp_path, damage):
    tensors = kohya(attention(matrices_of("SD 1.5")))[0] | text_keys()
    key = next(k for k in tensors if k.endswith("lora_up.weight"))
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    if damage == "one matrix":
        del tensors[key]
    elif damage == "flat":
        tensors[key] = tensors[key][0]
    elif damage == "text: one matrix":
        del tensors[f"{text}.lora_down.weight"]
    elif damage == "text: other width":
        tensors |= {f"{text}.lora_down.weight": torch.ones(RANK, 96), f"{text}.lora_up.weight": torch.ones(384, RANK)}
    elif damage == "text: two alphas":
        tensors[f"{text}.alpha"] = torch.ones(2)
    else:
        tensors[f"{text}.diff"] = torch.ones(128, 64)
    path = written(tmp_path / "style.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        style_lora.apply(*small["small-sd"][1:], path, 1.0, 1.0)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_second_few_step_lora_is_refused(small, tmp_path):
    _, model, _ = small["small-sd"]
    tensors = kohya(matrices_of("SD 1.5"))[0]
    lcm_lora = written(tmp_path / "lcm-lora-sdv1-5.safetensors", tensors)
    few_step = lora.apply(model, lcm_lora, 1.0)
    with pytest.raises(ValueError, match="is a few-step LoRA by its name, and the model has one already"):
        style_lora.apply(few_step, None, lcm_lora, 1.0, 1.0)
    # A style whose name has such a word adapts attention alone, and goes on before and after.
    style = written(tmp_path / "porsche_911_turbo.safetensors", {k: v for k, v in tensors.items() if "attn" in k})
    style_lora.apply(few_step, None, style, 1.0, 1.0)
    lora.apply(style_lora.apply(model, None, style, 1.0, 1.0)[0], lcm_lora, 1.0)
    as_style, _, _ = style_lora.apply(model, None, lcm_lora, 1.0, 1.0)
    with pytest.raises(ValueError, match="A few-step LoRA is on this model already"):
        lora.apply(as_style, lcm_lora, 1.0)


def test_a_style_put_on_with_our_node_goes_through(small, tmp_path):
    _, model, clip = small["small-sd"]
    tensors = kohya(matrices_of("SD 1.5"))[0]
    lcm_lora = written(tmp_path / "lcm.safetensors", tensors)
    style = written(tmp_path / "style.safetensors", {k: v for k, v in tensors.items() if "attn" in k})
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    one, _, _ = style_lora.apply(lora.apply(model, lcm_lora, 1.0), None, style, 0.7, 1.0)
    before, _, _ = style_lora.apply(model, None, style, 0.7, 1.0)
    other = lora.apply(before, lcm_lora, 1.0)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    pictures = [lcm.sample(m, 0, 2, positive, latent, 1.0, disable_progress=True)["samples"] for m in (one, other)]
    assert torch.allclose(*pictures, atol=1e-4)
    weight = unet.diffusers_to_native(model.model.model_config.unet_config, model.model.diffusion_model.state_dict())
    key = weight["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    assert not torch.equal(weights_of(one)[key], weights_of(lora.apply(model, lcm_lora, 1.0))[key])
