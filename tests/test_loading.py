"""Folders of every family, random weights at reduced width, against diffusers' own modules in fp32."""

import json

import comfy.memory_management
import comfy.model_management
import comfy.ops
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer
from vega_pack.vega import checkpoint

from dev import diffusers_folders as folders

pytestmark = pytest.mark.model
PROMPTS = [
    "",
    "a red sunset over snowy mountains with a lake",
    "🌅 émoji, naïve café 日本語 — ½",
    "night!!! desert?!? full-moon...",
    "  many   spaces\tand\nlines ",
    "UPPER lower 12345 #hash @at $5.00",
    " ".join(["word"] * 75),
]


@pytest.fixture(scope="module", params=folders.FAMILIES)
def pair(request, tmp_path_factory):
    """(diffusers' modules, our MODEL, CLIP and VAE) of one family."""
    folder = tmp_path_factory.mktemp("model") / request.param
    modules = folders.write(folder, request.param)
    with torch.inference_mode():
        return modules, checkpoint.load(folder, "tiny", [])


def relative(out, expected):
    return ((out - expected).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def test_unet(pair):
    modules, (model, _, _) = pair
    reference = modules["unet"]
    width = reference.config.cross_attention_dim
    x, context, t = torch.randn(2, 4, 16, 24), torch.randn(2, 77, width), torch.tensor([999, 259])
    pooled, sizes = torch.randn(2, 64), torch.tensor([[128, 192, 0, 0, 128, 192]] * 2)
    expected = reference(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    y = None
    if model.model.model_config.unet_config["adm_in_channels"]:
        y = torch.cat([model.model.encode_adm(pooled_output=pooled[i : i + 1], width=192, height=128) for i in range(2)])
    assert relative(model.model.diffusion_model(x, t, context=context, y=y), expected) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_encoders(pair, prompt):
    modules, (_, clip, _) = pair
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint.NANO_DIR / "tokenizer")
    tokenizer_2 = CLIPTokenizer.from_pretrained(checkpoint.NANO_DIR / "tokenizer_2")
    ids = tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    tokens = clip.tokenize(prompt)
    assert [t for t, _ in tokens["l"][0]] == ids[0].tolist()
    context, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    first = modules["text_encoder"](ids, output_hidden_states=True)
    if "text_encoder_2" not in modules:
        assert relative(context[:, :77], first.last_hidden_state) < 1e-5
        return
    ids_2 = tokenizer_2(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert [t for t, _ in tokens["g"][0]] == ids_2[0].tolist()
    second = modules["text_encoder_2"](ids_2, output_hidden_states=True)
    expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    assert relative(context[:, :77], expected) < 1e-5
    assert relative(pooled, second.text_embeds) < 1e-5


@torch.inference_mode()
def test_tiny_autoencoder(pair):
    modules, (model, _, vae) = pair
    scale = model.model.latent_format.scale_factor
    latents, pixels = torch.randn(2, 4, 8, 12), torch.rand(1, 64, 96, 3)
    expected = (modules["vae"].decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents / scale) - expected).abs().max() < 1e-6
    expected = modules["vae"].encode(pixels.movedim(-1, 1) * 2 - 1).latents
    assert relative(vae.encode(pixels) * scale, expected) < 1e-5


@torch.inference_mode()
def test_text_model_prefix_of_older_transformers_is_understood(folder):
    path = folder / "text_encoder" / "model.safetensors"
    _, new, _ = checkpoint.load(folder, "tiny", [])
    old = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in load_file(path).items()}
    save_file(old | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)
    _, again, _ = checkpoint.load(folder, "tiny", [])
    assert torch.equal(new.encode("a prompt"), again.encode("a prompt"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("in_channels", 9),
        ("act_fn", "gelu"),
        ("norm_num_groups", 16),
        ("time_cond_proj_dim", 256),
        ("resnet_time_scale_shift", "scale_shift"),
        ("addition_embed_type", "image"),
        ("down_block_types", ["AttnDownBlock2D"] * 3),
        ("block_out_channels", [64, 96, 128]),
        ("attention_head_dim", [1, 3, 5]),
    ],
)
def test_unet_options_the_host_lacks_are_refused(folder, option, value):
    """UNet options that the host cannot draw are refused by name."""
    config_file = folder / "unet" / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {option: value}))
    with pytest.raises(ValueError, match=option) as error:
        checkpoint.load(folder, "tiny", [])
    assert str(config_file) in str(error.value)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_folder_that_lacks_a_part_is_refused(folder, part):
    (folder / part / "config.json").unlink()
    with pytest.raises(ValueError, match=f"{part}/config.json is missing"):
        checkpoint.load(folder, "tiny", [])


@pytest.mark.parametrize(
    ("file", "option", "value"),
    [
        ("text_encoder/config.json", "hidden_act", "gelu"),
        ("text_encoder/config.json", "num_hidden_layers", 2),
        ("text_encoder/config.json", "vocab_size", 1000),
        ("vae/config.json", "latent_channels", 16),
        ("scheduler/scheduler_config.json", "prediction_type", "v_prediction"),
    ],
)
def test_other_parts_that_the_host_cannot_be_are_refused_by_name(folder, file, option, value):
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | {option: value}))
    with pytest.raises(ValueError, match=f"{file}: ({option} = )?.*{value}"):
        checkpoint.load(folder, "tiny", [])


@torch.inference_mode()
def test_loads_the_same_into_layers_without_weights(tmp_path, monkeypatch):
    """Loading is the same where the host makes its layers without weights.

    comfy.memory_management.aimdo_enabled: dynamic VRAM, the host's default on NVIDIA GPUs.
    """
    folders.write(tmp_path / "model", "SDXL")
    plain = checkpoint.load(tmp_path / "model", "tiny", [])
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(comfy.model_management, "WINDOWS", True)  # where ComfyUI 0.24 to 0.27 does it, too
    lazy = comfy.ops.manual_cast.Linear(2, 2)
    assert lazy.weight is None, "the host no longer does this: host_layers.EagerOps may go"
    dynamic = checkpoint.load(tmp_path / "model", "tiny", [])
    pairs = [(plain[0].model.diffusion_model, dynamic[0].model.diffusion_model)]
    pairs += [
        (plain[1].cond_stage_model, dynamic[1].cond_stage_model),
        (plain[2].first_stage_model, dynamic[2].first_stage_model),
    ]
    for one, other in pairs:
        expected, got = one.state_dict(), other.state_dict()
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[k], got[k]) and expected[k].dtype == got[k].dtype for k in expected)
