"""What was loaded, in a few words."""

from typing import NamedTuple

import comfy.model_patcher
import torch

from . import lora

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class ModelFacts(NamedTuple):
    family: str
    precision: str
    parameters: str


def of_model(model: comfy.model_patcher.ModelPatcher) -> ModelFacts:
    """Of a model's UNet: "Segmind-Vega", "fp16", "745M"."""
    unet = model.model.diffusion_model
    dtype = model.model.get_dtype()
    precision = PRECISIONS.get(dtype, str(dtype).removeprefix("torch."))
    return ModelFacts(family(model), precision, format_count(sum(weight.numel() for weight in unet.parameters())))


def family(model: comfy.model_patcher.ModelPatcher) -> str:
    """The name of a published base, or which of the two families it is of."""
    config = model.model.model_config.unet_config
    modules, channels = len(lora.lcm_targets(model)), config["model_channels"]
    if lora.is_nano(modules, channels):
        return "vega-nano"
    if modules in lora.BASES and channels == lora.BASE_CHANNELS:
        return lora.BASES[modules][0]
    return "SDXL family" if config.get("adm_in_channels") else "SD 1.5 family"


def format_count(number: int) -> str:
    """A number of parameters with two or three digits: 6.7M, 745M, 2.6B."""
    for unit, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= unit:
            value = number / unit
            return f"{value:.0f}{suffix}" if value >= 10 else f"{value:.1f}{suffix}"
    return str(number)
