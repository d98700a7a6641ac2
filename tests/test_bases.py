"""Every base in every form that users have on disk, against diffusers' own modules; and what must be refused."""

import json
import shutil
from pathlib import Path

import comfy.ops
import loads
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer
from vega_pack.vega import checkpoint, unet, unet_keys

from dev import diffusers_folders as folders
from dev import single_files

PROMPT = "a red sunset over snowy mountains with a lake"


def folder(path: Path, family: str, dtype=torch.float32, **options):
    return path / family, folders.write(path / family, family, dtype=dtype, **options)


def single(path: Path, family: str, dtype=torch.float32, vae="tiny"):
    return path / f"{family}.safetensors", single_files.write(path / f"{family}.safetensors", family, dtype, vae)


def pickled(path: Path, family: str):
    """A folder whose weights are .bin files, as diffusers and transformers wrote them before safetensors."""
    path, modules = folder(path, family)
    for file in path.rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    return path, modules


def ckpt(path: Path, family: str):
    file, modules = single(path, family)
    torch.save({"state_dict": load_file(file), "global_step": 1}, file.with_suffix(".ckpt"))
    file.unlink()
    return file.with_suffix(".ckpt"), modules


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


def relative(out, expected):
    return ((out - expected).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
@pytest.mark.parametrize(("family", "form"), loads.every(FORMS, always=("folder", "single file")))
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

    tokenizer = CLIPTokenizer.from_pretrained(checkpoint.NANO / "tokenizer")
    ids = tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
    clip.cond_stage_model.float()
    context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    first = modules["text_encoder"](ids, output_hidden_states=True)
    expected = first.last_hidden_state
    if "text_encoder_2" in modules:
        ids = CLIPTokenizer.from_pretrained(checkpoint.NANO / "tokenizer_2")(
            PROMPT, padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        second = modules["text_encoder_2"](ids, output_hidden_states=True)
        expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        assert relative(pooled, second.text_embeds) < 1e-5
    assert relative(context, expected) < 1e-5

    loads.seen(form, family)


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
    config = unet.host_config(json.loads(reference.to_json_string()), Path("config.json"))
    xl = config["adm_in_channels"] is not None
    in_single_file = {single_files.unet_key(name, xl): tensor for name, tensor in theirs.items()}
    assert len(in_single_file) == len(theirs)
    names = unet_keys.stability_to_diffusers(list(in_single_file))
    assert set(names.values()) == set(theirs)
    assert all(theirs[names[key]].shape == tensor.shape for key, tensor in in_single_file.items())
    seen = unet.host_config(unet_keys.infer_config(theirs), Path("model.safetensors"))
    assert seen == config
    native = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    mapped = unet.diffusers_to_native(config, native)
    assert mapped.keys() == theirs.keys()
    assert sorted(mapped.values()) == sorted(native)
    assert all(native[mapped[name]].shape == tensor.shape for name, tensor in theirs.items())


def refused(path, *words, vae="tiny", approx=None):
    with pytest.raises(ValueError) as error:
        checkpoint.load(path, vae, [], approx)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def changed(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def test_single_files_that_are_something_else_are_named(tmp_path):
    file = tmp_path / "x.safetensors"
    for tensors, words in (
        ({}, "it is empty"),
        ({"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": torch.zeros(1)}, "a LoRA, which belongs in models/loras"),
        ({"down_blocks.0.resnets.0.conv1.weight": torch.zeros(1)}, "a UNet alone"),
        ({"transformer.h.0": torch.zeros(1)}, "'transformer.h.0'"),
        ({"v_pred": torch.zeros(0)}, "a v-prediction model"),
        ({"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}, "no whole UNet of the SDXL or SD 1.5 family"),
    ):
        save_file(tensors, file)
        refused(file, str(file), words)
    file.write_bytes(b"GGUF not this")
    refused(file, str(file), "not a safetensors file")


def test_single_files_that_cannot_be_drawn_are_refused(tmp_path):
    file, _ = single(tmp_path, "tiny-sd")
    original = file.read_bytes()
    unet_in = "model.diffusion_model.input_blocks.0.0.weight"

    def nine_channels(tensors):
        tensors[unet_in] = torch.zeros(64, 9, 3, 3)

    def lacks(prefix):
        def change(tensors):
            for key in [k for k in tensors if k.startswith(prefix)]:
                del tensors[key]

        return change

    def widened(tensors):
        for key in [k for k in tensors if k.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]:
            tensors[key] = torch.zeros(len(tensors[key]), 1024)

    for change, *words in (
        (nine_channels, "in_channels = 9 (an inpaint UNet)"),
        (lacks("cond_stage_model"), "lacks the text encoder clip_l"),
        (lacks("alphas_cumprod"), "holds no full autoencoder: set vae to `tiny`"),
        (lacks("model.diffusion_model.out.2.weight"), "conv_out.weight"),
        (lacks("model.diffusion_model.time_embed.0.bias"), "1 weights missing: time_embedding.linear_1.bias"),
        (widened, "Stable Diffusion 2"),
        (lambda t: t.update({unet_in: torch.zeros(64, 4, 3, 3, dtype=torch.float8_e4m3fn)}), "float8_e4m3fn"),
    ):
        file.write_bytes(original)
        refused(changed(file, change), str(file), *words, vae="full")
    file.write_bytes(original[: len(original) // 2])
    refused(file, str(file), "incomplete")


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


def test_a_first_encoder_saved_by_transformers_5_in_a_single_file(tmp_path):
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


def test_a_part_without_its_config_is_named(tmp_path):
    path, _ = folder(tmp_path, "Segmind-Vega")
    (path / "text_encoder_2" / "config.json").unlink()
    refused(path, str(path / "text_encoder_2" / "config.json"), "can't be read")
    shutil.rmtree(path / "unet")
    (path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    refused(path, "unet/config.json is missing", "It is for FluxPipeline")


def test_models_that_do_not_predict_the_noise_are_refused(tmp_path):
    path, _ = folder(tmp_path, "Segmind-Vega")
    scheduler = path / "scheduler" / "scheduler_config.json"
    scheduler.parent.mkdir()
    for config, words in (
        ({"prediction_type": "v_prediction"}, "prediction_type = 'v_prediction'"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "EDMDPMSolverMultistepScheduler is not supported"),
    ):
        scheduler.write_text(json.dumps(config))
        refused(path, str(scheduler), words)
    file, _ = single(tmp_path, "Segmind-Vega")
    tensors = load_file(file)
    save_file(tensors, file, metadata={"modelspec.predict_key": "epsilon", "modelspec.prediction_type": ""})
    checkpoint.load(file, "tiny", [], tiny_files(tmp_path))
    save_file(tensors, file, metadata={"modelspec.prediction_type": "v"})
    refused(file, str(file), "a v-prediction model")


class Harmless:
    def __reduce__(self):
        return print, ("a pickle ran",)


def test_pickles_that_are_not_plain_weights_are_refused_unopened(tmp_path, capsys):
    path, _ = pickled(tmp_path, "tiny-sd")
    file = path / "unet" / "diffusion_pytorch_model.bin"
    torch.save(Harmless(), file)
    refused(path, str(file), "could run code", "safetensors")
    torch.save([torch.zeros(1)], file)
    refused(path, str(file), "something else than named weights")
    file.write_bytes(b"\x80")
    refused(path, str(file), "incomplete")
    file.write_text("version https://git-lfs.github.com/spec/v1")
    refused(path, str(file), "not a file of weights at all")
    assert "a pickle ran" not in capsys.readouterr().out


def test_a_missing_shard_and_a_broken_index_are_named(tmp_path):
    path, _ = folder(tmp_path, "tiny-sd", max_shard_size="2MB")
    shard = sorted((path / "unet").glob("*-of-*.safetensors"))[1]
    index = path / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    shard.rename(tmp_path / "elsewhere")
    refused(path, str(shard), index.name, "is missing")
    index.write_text("{")
    refused(path, str(index), "is not JSON")
    index.write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    refused(path, str(index.with_name("secret.safetensors")), "is missing")


def test_text_encoders_of_another_model_are_refused(tmp_path):
    path, _ = folder(tmp_path, "Segmind-Vega")
    other, _ = folder(tmp_path, "tiny-sd")
    shutil.rmtree(path / "text_encoder_2")
    refused(path, "text_encoder_2/ is missing")
    shutil.copytree(other / "text_encoder", other / "text_encoder_2")
    config = json.loads((other / "text_encoder_2" / "config.json").read_text()) | {"hidden_act": "gelu"}
    (other / "text_encoder_2" / "config.json").write_text(json.dumps(config))
    refused(other, "64 features a token", "64 + 64", "another model")


def test_a_full_autoencoder_of_the_other_family_is_refused(tmp_path):
    path, _ = folder(tmp_path, "Segmind-Vega")
    folders.full_autoencoder().save_pretrained(path / "vae")
    refused(path, "scaling_factor = 0.18215", "0.13025", "another model", vae="full")


APPROX_FORMS = {
    "pair": ("taesdxl_decoder.safetensors", "taesdxl_encoder.safetensors"),
    "pair of .pth": ("taesdxl_decoder.pth", "taesdxl_encoder.pth"),
    "AutoencoderTiny": ("taesdxl.safetensors",),
    "AutoencoderTiny in a folder": ("taesdxl/diffusion_pytorch_model.safetensors",),
}


def approx_files(folder: Path, names, seed=7):
    """TAESD with random weights in these files, as models/vae_approx would list them, and diffusers' own module."""
    torch.manual_seed(seed)
    reference = AutoencoderTiny().eval()
    state = reference.state_dict()
    files = {}
    for name in names:
        path = files[name] = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        side = next((s for s in ("decoder", "encoder") if path.stem.endswith(s)), None)
        content = {k: v.clone() for k, v in state.items()}
        if side:  # madebyollin's files count the decoder's clamp as layer 0
            content = {}
            for key, tensor in state.items():
                of, _, index, leaf = key.split(".", 3)
                if of == side:
                    content[f"{int(index) + (side == 'decoder')}.{leaf}"] = tensor.clone()
        torch.save(content, path) if path.suffix == ".pth" else save_file(content, path)
    return files, reference


def tiny_files(folder: Path):
    """TAESD for both families."""
    return approx_files(folder, ["taesd.safetensors", "taesdxl.safetensors"])[0]


@torch.inference_mode()
@pytest.mark.parametrize("form", APPROX_FORMS)
@pytest.mark.parametrize(("family", "name", "scale"), [("Segmind-Vega", "taesdxl", 0.13025), ("tiny-sd", "taesd", 0.18215)])
def test_tiny_is_found_in_vae_approx(tmp_path, form, family, name, scale):
    path, _ = single(tmp_path, family)
    others, _ = approx_files(tmp_path / "vae_approx", [f.replace("taesdxl", "taef1") for f in APPROX_FORMS[form]], seed=8)
    files, reference = approx_files(tmp_path / "vae_approx", [f.replace("taesdxl", name) for f in APPROX_FORMS[form]])
    _, _, vae = checkpoint.load(path, "tiny", [], others | files)
    latents, pixels = torch.randn(2, 4, 8, 12), torch.rand(1, 64, 96, 3)
    expected = (reference.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents / scale) - expected).abs().max() < 1e-6
    expected = reference.encode(pixels.movedim(-1, 1) * 2 - 1).latents
    assert relative(vae.encode(pixels) * scale, expected) < 1e-5


@torch.inference_mode()
def test_the_tiny_decoder_alone_is_enough_to_decode(tmp_path):
    path, _ = folder(tmp_path, "Segmind-Vega")
    (path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    files, reference = approx_files(tmp_path, ["taesdxl_decoder.safetensors"])
    _, _, vae = checkpoint.load(path, "tiny", [], files)
    latents = torch.randn(1, 4, 8, 8)
    expected = (reference.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents / 0.13025) - expected).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"encoding a picture needs taesdxl_encoder\.safetensors in models/vae_approx"):
        vae.encode(torch.rand(1, 64, 64, 3))


def test_tiny_of_the_other_family_or_of_none_is_refused(tmp_path):
    xl, _ = single(tmp_path, "Segmind-Vega")
    sd, _ = single(tmp_path, "tiny-sd")
    refused(xl, "no taesdxl in models/vae_approx", "download taesdxl_decoder.safetensors", "`full`")
    files, _ = approx_files(tmp_path, ["taesd_decoder.safetensors"])
    refused(xl, "taesd, which is there, is for SD 1.5", "download taesdxl_decoder", approx=files)
    files, _ = approx_files(tmp_path, ["taesdxl.safetensors"])
    refused(sd, "taesdxl, which is there, is for SDXL", "download taesd_decoder", approx=files)
    save_file({"1.weight": torch.zeros(64, 16, 3, 3)}, tmp_path / "taesd_decoder.safetensors")
    broken = {"taesd_decoder.safetensors": tmp_path / "taesd_decoder.safetensors"}
    refused(sd, "taesd_decoder.safetensors", "[64, 16, 3, 3] instead of [64, 4, 3, 3]", approx=broken)
