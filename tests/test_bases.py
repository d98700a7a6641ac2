"""Every base in every form that users have on disk, against diffusers' own modules."""

import json
from pathlib import Path

import comfy.ops
import loads
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from model_files import changed, ckpt, folder, pickled, refused, relative, single, tiny_files
from safetensors.torch import load_file
from transformers import CLIPTokenizer
from vega_pack.vega import checkpoint, diffusers_config, unet, unet_keys

from dev import diffusers_folders as folders
from dev import single_files

pytestmark = pytest.mark.model
PROMPT = "a red sunset over snowy mountains with a lake"


FORMS = {
    "folder": folder,
    "folder, fp16 variant": lambda p, f: folder(p, f, torch.float16, variant="fp16"),
    "folder, bf16": lambda p, f: folder(p, f, torch.bfloat16),
    "folder, sharded": lambda p, f: folder(p, f, max_shard_size="2MB"),
    "folder, sharded fp16 variant": lambda p, f: folder(p, f, torch.float16, variant="fp16", max_shard_size="1MB"),
    "folder, .bin": pickled,
    "single file": single,
    "single file, fp16": lambda p, f: single(p, f, torch.float16),
    "single file, bf16": lambda p, f: single(p, f, torch.bfloat16),
    "single file, .ckpt": ckpt,
}


@torch.inference_mode()
@pytest.mark.parametrize(("family", "form"), loads.family_form_params(FORMS, always=("folder", "single file")))
def test_loads_exactly(family, form, tmp_path):
    path, modules = FORMS[form](tmp_path, family)
    modules = {name: module.float() for name, module in modules.items()}
    model, clip, _ = checkpoint.load(path, "tiny", [], tiny_files(tmp_path))
    ours, reference = model.model.diffusion_model.float(), modules["unet"]
    width = reference.config.cross_attention_dim
    x, context, t = torch.randn(2, 4, 16, 24), torch.randn(2, 77, width), torch.tensor([999, 259])
    pooled, sizes = torch.randn(2, 64), torch.tensor([[128, 192, 0, 0, 128, 192]] * 2)
    expected = reference(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    y = None
    if "text_encoder_2" in modules:
        y = torch.cat([model.model.encode_adm(pooled_output=pooled[i : i + 1], width=192, height=128) for i in range(2)])
    model.model.manual_cast_dtype = None
    assert relative(ours(x, t, context=context, y=y), expected) < 1e-5

    tokenizer = CLIPTokenizer.from_pretrained(checkpoint.NANO_DIR / "tokenizer")
    ids = tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    clip.cond_stage_model.float()
    context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    first = modules["text_encoder"](ids, output_hidden_states=True)
    expected = first.last_hidden_state
    if "text_encoder_2" in modules:
        ids = CLIPTokenizer.from_pretrained(checkpoint.NANO_DIR / "tokenizer_2")(
            PROMPT, padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        second = modules["text_encoder_2"](ids, output_hidden_states=True)
        expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        assert relative(pooled, second.text_embeds) < 1e-5
    assert relative(context, expected) < 1e-5

    loads.record_loaded(form, family)


@torch.inference_mode()
@pytest.mark.parametrize("form", [folder, single])
def test_full_autoencoder(tmp_path, form):
    path, modules = form(tmp_path, "Segmind-Vega", vae="full")
    _, _, vae = checkpoint.load(path, "full", [])
    latents, pixels = torch.randn(1, 4, 8, 8), torch.rand(1, 64, 64, 3)
    expected = (modules["vae"].decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents) - expected).abs().max() < 1e-4  # fp32 rounding through some forty layers
    expected = modules["vae"].encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    assert relative(vae.encode(pixels), expected) < 1e-4


# Parameters in millions, as the publishers state them (models.md in the facts; SD 1.5's from its card).
MILLIONS = {"Segmind-Vega": 745.2, "SSD-1B": 1331.3, "SDXL": 2567.5, "SD 1.5": 859.5, "small-sd": 579.4, "tiny-sd": 323.4}


@pytest.mark.parametrize("family", folders.FAMILIES)
def test_every_key_of_the_real_layout_maps(family):
    reference = folders.real_unet(family)
    theirs = reference.state_dict()
    assert round(sum(v.numel() for v in theirs.values()) / 1e6, 1) == MILLIONS[family]
    config = diffusers_config.host_config(json.loads(reference.to_json_string()), Path("config.json"))
    xl = config["adm_in_channels"] is not None
    in_single_file = {single_files.unet_key(name, xl): tensor for name, tensor in theirs.items()}
    assert len(in_single_file) == len(theirs)
    names = unet_keys.ldm_to_diffusers(list(in_single_file))
    assert set(names.values()) == set(theirs)
    assert all(theirs[names[key]].shape == tensor.shape for key, tensor in in_single_file.items())
    seen = diffusers_config.host_config(unet_keys.infer_config(theirs), Path("model.safetensors"))
    assert seen == config
    native = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    mapped = unet.diffusers_to_native(config, native)
    assert mapped.keys() == theirs.keys()
    assert sorted(mapped.values()) == sorted(native)
    assert all(native[mapped[name]].shape == tensor.shape for name, tensor in theirs.items())


def test_leftovers_of_other_tools_do_no_harm(tmp_path):
    """Keys that files in the field have, and that nothing is made of."""
    sd, _ = single(tmp_path, "tiny-sd")
    extras = ("cond_stage_model.logit_scale", "cond_stage_model.text_projection", "cond_stage_model.attn_mask")
    extras += (
        "cond_stage_model.transformer.text_projection.weight",
        "model_ema.decay",
        "embedding_manager.x",
        "denoiser.sigmas",
    )
    before = checkpoint.load(sd, "tiny", [], tiny_files(tmp_path))
    changed(sd, lambda tensors: tensors.update({key: torch.ones(3, 3) for key in extras}))
    after = checkpoint.load(sd, "tiny", [], tiny_files(tmp_path))
    with torch.inference_mode():
        assert torch.equal(before[1].encode("a lake"), after[1].encode("a lake"))


def test_a_first_encoder_saved_by_transformers_5(tmp_path):
    """A first encoder without its text_model prefix, as transformers 5 saves it, loads from a single file."""
    xl, _ = single(tmp_path, "Segmind-Vega")
    before = checkpoint.load(xl, "tiny", [], tiny_files(tmp_path))
    prefix = "conditioner.embedders.0.transformer."

    def unprefixed(tensors):
        for key in [k for k in tensors if k.startswith(prefix)]:
            tensors[key.replace("text_model.", "")] = tensors.pop(key)

    after = checkpoint.load(changed(xl, unprefixed), "tiny", [], tiny_files(tmp_path))
    with torch.inference_mode():
        assert torch.equal(before[1].encode("a lake"), after[1].encode("a lake"))


@torch.inference_mode()
def test_an_autoencoder_whose_attention_has_newer_names(tmp_path):
    path, _ = single(tmp_path, "tiny-sd", vae="full")
    latents = torch.randn(1, 4, 8, 8)
    before = checkpoint.load(path, "full", [])[2].decode(latents)

    def newer(tensors):
        for key in [k for k in tensors if ".attn_1." in k]:
            name = key
            for old, new in ((".q.", ".to_q."), (".k.", ".to_k."), (".v.", ".to_v."), (".proj_out.", ".to_out.0.")):
                name = name.replace(old, new)
            tensor = tensors.pop(key)
            tensors[name] = tensor.squeeze() if ".norm." not in key else tensor
        tensors["first_stage_model.loss.logvar"] = torch.zeros(1)

    changed(path, newer)
    assert any("to_out.0" in key for key in load_file(path))
    assert torch.equal(checkpoint.load(path, "full", [])[2].decode(latents), before)
    changed(path, lambda tensors: tensors.update({"first_stage_model.decoder.conv_in.weight": torch.zeros(())}))
    refused(path, str(path), "does not fit an AutoencoderKL", vae="full")


def test_configs_that_are_written_otherwise(tmp_path):
    """A byte order mark, as Notepad leaves; no depth where there is no attention; nulls."""
    path, _ = folder(tmp_path, "Segmind-Vega")
    file = path / "unet" / "config.json"
    config = json.loads(file.read_text()) | {"transformer_layers_per_block": [0, 1, 2], "dropout": None, "act_fn": None}
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "act_fn"}), encoding="utf-8-sig")
    assert checkpoint.load(path, "tiny", [])
    file.write_text(json.dumps(config | {"transformer_layers_per_block": [1, 0, 2], "act_fn": "silu"}))
    refused(path, str(file), "transformer_layers_per_block")
