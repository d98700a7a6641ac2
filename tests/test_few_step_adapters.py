"""Few-step LoRAs with the modules of an LCM-LoRA, told by their names; each would draw wrong on the LCM's timesteps."""

from pathlib import Path

import pytest
import torch
from lora_files import kohya, matrices, written
from vega_pack.vega import few_step_adapters, lora, model_sampling, recipes

# Files as they are published or as people have them -> what they are, and what of the recipe its makers' own says.
PUBLISHED = {
    "dmd2_sdxl_4step_lora_fp16": ("DMD2", "lcm, simple, 4 steps and cfg 1"),
    "DMD2_lcm": ("DMD2", "lcm, simple, 4 steps and cfg 1"),
    "RealVisDMD2": ("DMD2", "lcm, simple"),
    "distribution_matching_distillation": ("DMD2", "lcm, simple"),
    "Hyper-SDXL-8steps-lora": ("Hyper-SD", "ddim, simple, the number of steps in the file's name and cfg 1"),
    "Hyper-SD15-1step-lora": ("Hyper-SD for one step", "lcm, simple, 1 step and cfg 1"),
    "HyperLoRA": ("Hyper-SD", "ddim, simple"),
    "Hyper-SD/8steps": ("Hyper-SD", "ddim, simple"),
    "Hyper-SD15-12steps-CFG-lora": ("Hyper-SD CFG", "ddim, simple, the number of steps in the file's name and cfg 5 to 8"),
    "sdxl_lightning_4step_lora": ("SDXL-Lightning", "euler, sgm_uniform, the number of steps in the file's name and cfg 1"),
    "sdxlLightningLora_8step": ("SDXL-Lightning", "euler, sgm_uniform"),
    "TCD-SDXL-LoRA/pytorch_lora_weights": ("TCD", "TCD's own sampler"),
    "TCD-SDXL-LoRA/pytorch_lora_weights (1)": ("TCD", "TCD's own sampler"),
    f"models--h1t--TCD-SDXL-LoRA/snapshots/{'a' * 40}/pytorch_lora_weights": ("TCD", "TCD's own sampler"),
    "tcdLora_sdxl": ("TCD", "TCD's own sampler"),
    "pcm_sdxl_smallcfg_4step_converted": ("PCM", "ddim, simple, the number of steps in the file's name and cfg 1"),
    "pcm_sd15_normalcfg_2step_converted": (
        "PCM (normal CFG)",
        "ddim, simple, the number of steps in the file's name and cfg 7.5",
    ),
    "pcm_sdxl_lcmlike_lora_converted": ("PCM (LCM-like)", "lcm, simple"),
    "PCM_Weights/sdxl/4step": ("PCM", "ddim, simple"),
    "sd_xl_turbo_lora_v1": ("a Turbo-LoRA", "euler_ancestral, simple, 4 steps or more and cfg 1"),
    "flash-sdxl/pytorch_lora_weights": ("Flash Diffusion", "lcm, simple, 4 steps and cfg 1"),
    "FlashSDXL": ("Flash Diffusion", "lcm, simple"),
}
LCM = (
    "lcm-lora-sdxl",
    "Segmind-VegaRT",
    "pytorch_lora_weights",
    "lcm_lora_for_lightning",
    "LCMLoRA_SDXL",
    "animatelcm_sd15_t2v_lora",
    f"models--latent-consistency--lcm-lora-sdxl/snapshots/{'b' * 40}/pytorch_lora_weights",
    "lcm-lora-sdv1-5",
    "hyperrealism",
    "flashlight_v2",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_name_tells(name):
    called, recipe, said = few_step_adapters.identify(Path("loras", f"{name}.safetensors"), {})
    expected, of_its_makers = PUBLISHED[name]
    assert called == expected
    assert of_its_makers in recipe
    assert said.startswith("its name")


@pytest.mark.parametrize("name", LCM)
def test_other_names_tell_nothing(name):
    metadata = {
        "ss_sd_model_name": "juggernaut_lightning.safetensors",
        "modelspec.title": "A lake",
        "format": "pt",
        "lora_adapter_metadata": '{"unet.base_model_name_or_path": "stabilityai/sdxl-turbo"}',
    }
    if name.startswith("lcm"):
        metadata["modelspec.description"] = "Unlike DMD2 for any fine-tune."
    metadata["modelspec.author"] = "Hyper Team"
    metadata["title"] = "A Latent Consistency LoRA, a free alternative to Turbo and Lightning"
    assert few_step_adapters.identify(Path("loras", f"{name}.safetensors"), metadata) is None


@pytest.mark.model
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


@pytest.mark.model
@torch.inference_mode()
def test_the_name_decides_between_lightning_and_lcm(vega, tmp_path):
    """The same file is refused under a Lightning name, and taken under one that says LCM."""
    tensors = kohya(matrices(vega[0]))[0]
    named = written(tmp_path / "sdxl_lightning_4step_lora.safetensors", tensors)
    with pytest.raises(ValueError, match="is SDXL-Lightning by its name.*KSampler set to euler, sgm_uniform"):
        lora.apply(vega[1], named, 1.0)
    renamed = named.rename(tmp_path / "lcm-sdxl_lightning.safetensors")
    assert model_sampling.carried_recipe(lora.apply(vega[1], renamed, 1.0)) is recipes.LCM


@pytest.mark.model
@torch.inference_mode()
def test_flash_diffusions_attention_alone_is_not_called_a_style(vega, tmp_path):
    attention = {name: sides for name, sides in matrices(vega[0]).items() if "attn" in name}
    (tmp_path / "loras").mkdir()
    path = written(tmp_path / "loras" / "flash-sdxl.safetensors", kohya(attention)[0])
    with pytest.raises(ValueError, match="is Flash Diffusion by its name") as error:
        lora.apply(vega[1], path, 1.0)
    assert "style" not in str(error.value)
    unnamed = path.rename(path.parent / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match="and so does Flash Diffusion's") as error:
        lora.apply(vega[1], unnamed, 1.0)
    assert "looks like" not in str(error.value)


@pytest.mark.model
@torch.inference_mode()
@pytest.mark.parametrize("name", ["porsche_911_turbo", "lightning_bolts", "hyper_detailed_eyes"])
def test_a_style_with_such_a_word_is_told_by_its_modules(vega, tmp_path, name):
    attention = {name: sides for name, sides in matrices(vega[0]).items() if "attn" in name}
    path = written(tmp_path / f"{name}.safetensors", kohya(attention)[0])
    with pytest.raises(ValueError, match="changes attention layers alone"):
        lora.apply(vega[1], path, 1.0)
