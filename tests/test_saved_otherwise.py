"""Weights saved otherwise than plain: with an adapter, in a wrapper, quantised; and models of other kinds."""

import json
import shutil

import lora_files
import peft as peft_library
import pytest
import torch
from diffusers import UNet2DConditionModel
from model_files import TEXT, UNET, VAE, refused, saved
from peft import LoraConfig
from safetensors.torch import load_file
from vega_pack.vega import checkpoint, lora

from dev import diffusers_folders as folders
from dev import single_files

pytestmark = pytest.mark.model


def state(loaded):
    model, clip, vae = loaded
    parts = (model.model.diffusion_model, clip.cond_stage_model, vae.first_stage_model)
    return [tensor for part in parts for tensor in part.state_dict().values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


# Adapters


@pytest.mark.parametrize(
    ("part", "targets"),
    [("unet", ["to_q", "conv1"]), ("text_encoder", ["q_proj"]), ("vae", ["conv.0"])],
)
def test_an_adapter_that_was_not_merged_is_named_in_every_part(folder, part, targets):
    module = folders.modules("tiny-sd")[part]
    peft_library.inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), module, "default")
    (file,) = (folder / part).glob("*.safetensors")
    saved(module.state_dict(), file)
    refused(folder, str(file), "saved with an adapter in it that is not merged", "merge_and_unload")


def test_an_adapter_in_other_files_is_named(folder, single):
    """An adapter is named in a single file, and in the UNet of an older diffusers."""
    modules = folders.modules("tiny-sd")
    base = single_files.to_single_file(modules)
    peft_library.inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), modules["unet"], "default")
    extra = {k: v for k, v in modules["unet"].state_dict().items() if "lora_" in k}
    saved(base | {f"model.diffusion_model.{k}": v for k, v in extra.items()}, single[0])
    refused(single[0], str(single[0]), "saved with an adapter in it that is not merged", approx=single[1])
    tensors = load_file(folder / UNET)
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight"
    saved(tensors | {key: torch.ones(4, 4)}, folder / UNET)
    refused(folder, "saved with an adapter in it that is not merged", key)


def test_an_adapter_alone_in_the_place_of_a_model_is_a_lora(single):
    saved({"base_model.model.mid_block.x.lora_A.weight": torch.ones(2, 2)}, single[0])
    refused(single[0], "a LoRA, which belongs in models/loras")


# Wrappers


def wrapped(modules):
    """How torch names the weights of each part when it is compiled, distributed, or has a part that is compiled."""
    modules["unet"].down_blocks[0] = torch.compile(modules["unet"].down_blocks[0])
    modules["vae"].decoder = torch.compile(modules["vae"].decoder)
    modules["unet"] = torch.nn.DataParallel(torch.compile(modules["unet"]))
    modules["text_encoder"] = torch.nn.DataParallel(modules["text_encoder"])
    return {part: module.state_dict() for part, module in modules.items()}


def test_what_a_wrapper_added_to_the_names_is_taken_off(tiny_sd, folder, single):
    plain = checkpoint.load(tiny_sd[0] / "folder", "tiny", [])
    parts = wrapped(folders.modules("tiny-sd"))
    assert "module._orig_mod.down_blocks.0._orig_mod.resnets.0.conv1.weight" in parts["unet"]
    for part, found in parts.items():
        (file,) = (folder / part).glob("*.safetensors")
        saved(found, file)
    assert same(checkpoint.load(folder, "tiny", []), plain)
    file, approx = single
    plain = checkpoint.load(file, "tiny", [], approx)
    tensors = load_file(file)
    saved({k.replace("model.diffusion_model.", "model.diffusion_model._orig_mod."): v for k, v in tensors.items()}, file)
    assert same(checkpoint.load(file, "tiny", [], approx), plain)
    saved({f"module.{k}": v for k, v in tensors.items()}, file)
    assert same(checkpoint.load(file, "tiny", [], approx), plain)
    saved({f"module.{k}": v for k, v in tensors.items()} | tensors, file)
    refused(file, str(file), "some weights twice", approx=approx)


@torch.inference_mode()
def test_what_a_wrapper_added_in_a_lora_is_taken_off(tmp_path):
    """What a wrapper added to the names in a LoRA is taken off."""
    reference = UNet2DConditionModel.from_pretrained(checkpoint.NANO_DIR / "unet")
    model = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[0]
    pairs = lora_files.matrices(reference)
    tensors, metadata = lora_files.peft(pairs)
    kohya, _ = lora_files.kohya(pairs)
    plain = lora_files.weights_of(lora.apply(model, lora_files.written(tmp_path / "plain.safetensors", kohya), 1.0))
    for found, meta in (
        ({k.replace("unet.", "unet._orig_mod."): v for k, v in tensors.items()}, metadata),
        ({f"module.{k.replace('attentions.0.', 'attentions.0._orig_mod.')}": v for k, v in tensors.items()}, metadata),
        ({k.replace(".lora_", ".base_layer.lora_"): v for k, v in tensors.items()}, metadata),
        ({k.replace("lora_unet_", "lora_unet__orig_mod_"): v for k, v in kohya.items()}, None),
        ({k.replace("attentions_0_", "attentions_0__orig_mod_"): v for k, v in kohya.items()}, None),
        ({k.replace("lora_unet_", "lora_unet_module_"): v for k, v in kohya.items()}, None),
    ):
        patched = lora.apply(model, lora_files.written(tmp_path / "wrapped.safetensors", found, meta), 1.0)
        after = lora_files.weights_of(patched)
        assert after.keys() == plain.keys()
        assert all(torch.equal(after[k], plain[k]) for k in plain)


# A full LCM


def test_a_full_lcm_is_named(folder, single):
    config = folders.FAMILIES["tiny-sd"] | {"time_cond_proj_dim": 256}
    lcm = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **config)
    plain_config = (folder / "unet" / "config.json").read_text()
    lcm.save_pretrained(folder / "unet")
    refused(folder, str(folder / "unet"), "a full LCM", "the model that it was distilled from")
    (folder / "unet" / "config.json").write_text(plain_config)
    refused(folder, str(folder / UNET), "a full LCM", "with an LCM-LoRA")
    file, approx = single
    extra = {"model.diffusion_model.time_embedding.cond_proj.weight": lcm.state_dict()["time_embedding.cond_proj.weight"]}
    saved(load_file(file) | extra, file)
    refused(file, str(file), "a full LCM", approx=approx)


# Quantised


def bitsandbytes(name, tensor):
    """What bitsandbytes' Linear4bit saves for a weight (its functional.QuantState.as_dict, packed)."""
    blocks = max(1, tensor.numel() // 64)
    return {
        name: torch.zeros(tensor.numel() // 2, 1, dtype=torch.uint8),
        f"{name}.absmax": torch.ones(blocks),
        f"{name}.quant_map": torch.ones(16),
        f"{name}.quant_state.bitsandbytes__nf4": torch.ones(8, dtype=torch.uint8),
    }


QUANTISED = {
    "bitsandbytes": bitsandbytes,
    "int8": lambda name, t: {name: t.to(torch.int8), name.replace("weight", "SCB"): torch.ones(len(t))},
    "int8 alone": lambda name, t: {name: t.to(torch.int8)},
    "scaled fp8": lambda name, t: {
        name: t.to(torch.float8_e4m3fn),
        name.replace("weight", "scale_weight"): torch.ones(1),
    },
    "host's": lambda name, t: {name: t.to(torch.float8_e4m3fn), name.replace("weight", "comfy_quant"): torch.ones(3)},
    "GPTQ": lambda name, t: {name.replace("weight", "qweight"): t.to(torch.int32)},
    "quanto": lambda name, t: {f"{name}._data": t.to(torch.int8), f"{name}._scale": torch.ones(len(t), 1)},
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_are_named_in_every_part(folder, single, kind):
    def quantise(path):
        tensors = load_file(path)
        name = next(k for k in tensors if k.endswith((".to_q.weight", ".q_proj.weight", ".conv.0.weight")))
        saved({k: v for k, v in tensors.items() if k != name} | QUANTISED[kind](name, tensors[name]), path)

    for part in (UNET, TEXT, VAE):
        original = (folder / part).read_bytes()
        quantise(folder / part)
        refused(folder, str(folder / part), "is quantised", "fp32, fp16 or bf16")
        (folder / part).write_bytes(original)
    quantise(single[0])
    refused(single[0], str(single[0]), "is quantised", approx=single[1])


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_configuration_that_says_quantised_is_believed(folder, part):
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "torchao"}}))
    refused(folder, str(file), "quantised (quantization_config)")


# Other files


def test_models_of_other_kinds_are_named(tmp_path):
    file = tmp_path / "x.safetensors"
    for names, words in (
        (("model.diffusion_model.double_blocks.0.img_attn.qkv.weight",), "a Flux model"),
        (("double_blocks.0.img_attn.qkv.weight",), "a Flux model"),
        (("model.diffusion_model.joint_blocks.0.x.weight",), "a Stable Diffusion 3 model"),
        (("controlnet_down_blocks.0.weight", "down_blocks.0.resnets.0.conv1.weight"), "a ControlNet"),
        (("control_model.input_blocks.0.0.weight",), "a ControlNet"),
        (("model_ema.diffusion_modelinput_blocks00weight",), "the EMA weights"),
        (("first_stage_model.decoder.conv_in.weight", "first_stage_model.decoder.up.0.x"), "an autoencoder (VAE) alone"),
        (("decoder.up_blocks.0.resnets.0.conv1.weight",), "an autoencoder (VAE) alone"),
        (("encoder.layers.0.mlp.fc1.weight", "embeddings.token_embedding.weight"), "a text encoder alone"),
        (("text_model.embeddings.token_embedding.weight",), "a text encoder alone"),
        (("taesd_decoder.1.weight",), "a tiny autoencoder, which belongs in models/vae_approx"),
        (("unet.down_blocks.0.resnets.0.conv1.weight",), "a UNet alone"),
    ):
        saved({name: torch.ones(2, 2) for name in names}, file)
        refused(file, str(file), words)
        with pytest.raises(ValueError) as error:
            checkpoint.load(file, "tiny", [])
        assert "ownload" not in str(error.value)  # it would not help
    (tmp_path / "sd3" / "transformer").mkdir(parents=True)
    (tmp_path / "sd3" / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    refused(tmp_path / "sd3", "It is for StableDiffusion3Pipeline; Load Vega takes models of the SDXL and SD 1.5 families")


def test_the_refiner_is_named(tmp_path):
    config = folders.FAMILIES["Segmind-Vega"] | {"cross_attention_dim": 1280}
    unet = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **config)
    folder = tmp_path / "refiner"
    folders.write(folder, "Segmind-Vega")
    unet.save_pretrained(folder / "unet")
    refused(folder, str(folder / "unet"), "the SDXL refiner's")
    shutil.rmtree(folder / "text_encoder")
    refused(folder, "text_encoder/config.json is missing", "the SDXL refiner's")
    tensors = {single_files.unet_key(k, True): v for k, v in unet.state_dict().items()}
    saved({f"model.diffusion_model.{k}": v for k, v in tensors.items()}, tmp_path / "refiner.safetensors")
    refused(tmp_path / "refiner.safetensors", "the SDXL refiner's")


def test_only_missing_weights_advise_a_download(folder):
    """Downloading again is advised where weights are missing, and nowhere else."""
    original = load_file(folder / UNET)
    saved({k: v for k, v in original.items() if k != "conv_in.bias"}, folder / UNET)
    refused(folder, "1 weights missing: conv_in.bias", "Download the model again")
    saved(original | {"stranger.weight": torch.ones(1)}, folder / UNET)
    with pytest.raises(ValueError, match="1 weights unexpected: stranger.weight") as error:
        checkpoint.load(folder, "tiny", [])
    assert "Download" not in str(error.value)
