"""Folders and single files that Load Vega must refuse, and what it says of them."""

import json
import shutil

import pytest
import torch
from model_files import changed, folder, pickled, refused, single, tiny_files
from safetensors.torch import load_file, save_file
from vega_pack.vega import checkpoint

from dev import diffusers_folders as folders

pytestmark = pytest.mark.model


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
