"""Few-step LoRAs with the modules of an LCM-LoRA, told by their names; each would draw wrong on the LCM's timesteps."""

from pathlib import Path

import folders
import pytest
import torch
from safetensors.torch import save_file
from test_lora import kohya, matrices, written
from vega_pack.vega import checkpoint, few_step_adapters, lcm, lora

# Published files, and folders of those that are published under everybody's name.
PUBLISHED = {
    "dmd2_sdxl_4step_lora": "DMD2",
    "dmd2_sdxl_4step_lora_fp16": "DMD2",
    "DMD2_lcm": "DMD2",
    "Hyper-SDXL-8steps-lora": "Hyper-SD",
    "Hyper-SD15-1step-lora": "Hyper-SD",
    "Hyper-SDXL-8steps-CFG-lora": "Hyper-SD CFG",
    "Hyper-SD15-12steps-CFG-lora": "Hyper-SD CFG",
    "sdxl_lightning_4step_lora": "SDXL-Lightning",
    "SDXLLightning": "SDXL-Lightning",
    "TCD-SDXL-LoRA/pytorch_lora_weights": "TCD",
    "TCD-SD15-LoRA": "TCD",
    "pcm_sdxl_normalcfg_4step_converted": "PCM",
    "pcm_sd15_smallcfg_2step_converted": "PCM",
    "sd_xl_turbo_lora_v1": "a Turbo-LoRA",
    "flash-sdxl/pytorch_lora_weights": "Flash Diffusion",
    "FlashSDXL": "Flash Diffusion",
}
LCM = ("lcm-lora-sdxl", "Segmind-VegaRT", "pytorch_lora_weights", "lcm_lora_for_lightning", "hyperrealism", "flashlight_v2")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_name_tells(name):
    called, recipe, said = few_step_adapters.told(Path("loras", f"{name}.safetensors"), {})
    assert called == PUBLISHED[name]
    assert recipe
    assert said.startswith("its name")


@pytest.mark.parametrize("name", LCM)
def test_other_names_tell_nothing(name):
    metadata = {"ss_sd_model_name": "juggernaut_lightning.safetensors", "modelspec.title": "A lake", "format": "pt"}
    assert few_step_adapters.told(Path("loras", f"{name}.safetensors"), metadata) is None


@pytest.fixture(scope="module")
def vega(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    modules = folders.write(folder, "Segmind-Vega")
    with torch.inference_mode():
        return modules["unet"], checkpoint.load(folder, "tiny", [])[0]


@pytest.mark.parametrize(
    ("key", "value", "called"),
    [
        ("ss_output_name", "dmd2_sdxl_4step_lora", "DMD2"),
        ("modelspec.title", "Hyper-SD 8 steps CFG", "Hyper-SD CFG"),
        ("modelspec.description", "PCM, four steps, deterministic", "PCM"),
        ("name", "TCD-SDXL-LoRA", "TCD"),
    ],
)
@torch.inference_mode()
def test_metadata_tells_where_the_name_does_not(vega, tmp_path, key, value, called):
    path = written(tmp_path / "fast.safetensors", kohya(matrices(vega[0]))[0], {key: value})
    with pytest.raises(ValueError) as error:
        lora.apply(vega[1], path, 1.0)
    message = str(error.value)
    assert f"is {called} by {key} in its metadata" in message
    assert str(path) in message
    assert "\n" not in message


@torch.inference_mode()
def test_the_same_file_is_refused_by_its_name_and_taken_as_an_lcm_lora(vega, tmp_path):
    tensors = kohya(matrices(vega[0]))[0]
    named = written(tmp_path / "sdxl_lightning_4step_lora.safetensors", tensors)
    with pytest.raises(ValueError, match="is SDXL-Lightning by its name.*KSampler set to euler, sgm_uniform"):
        lora.apply(vega[1], named, 1.0)
    renamed = named.rename(tmp_path / "lcm-sdxl_lightning.safetensors")
    assert lcm.has_lcm_sampling(lora.apply(vega[1], renamed, 1.0))


@torch.inference_mode()
@pytest.mark.parametrize("name", ["flash-sdxl", "pytorch_lora_weights"])
def test_flash_diffusions_attention_alone_is_not_called_a_style(vega, tmp_path, name):
    attention = {name: sides for name, sides in matrices(vega[0]).items() if "attn" in name}
    path = tmp_path / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in kohya(attention)[0].items()}, path)
    with pytest.raises(ValueError) as error:
        lora.apply(vega[1], path, 1.0)
    message = str(error.value)
    assert "Flash Diffusion" in message
    assert "looks like a LoRA for a style" not in message
