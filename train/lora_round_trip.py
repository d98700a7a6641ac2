"""Whether a LoRA file loads whole in diffusers: what it puts on each module, against what was trained there."""

import warnings
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

TRAINED, LOADED = "default", "loaded_back"  # adapters: PEFT's own name for an only one, and ours
TOLERANCE = 2e-2  # relative; the UNet that the file is loaded into may be in bf16


def check(file: Path, unet: nn.Module, encoders: list[nn.Module], is_xl: bool) -> str:
    """The sentence "N of N modules load back in diffusers"; ValueError where some do not.

    encoders are those that were adapted. The models end with a second adapter, so nothing else can be done with them.
    """
    pipeline = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    tensors, alphas = pipeline.lora_state_dict(file, unet_config=unet.config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # it is meant to be the second one
        pipeline.load_lora_into_unet(tensors, alphas, unet, adapter_name=LOADED)
        for number, encoder in enumerate(encoders, 1):
            prefix = "text_encoder" if number == 1 else f"text_encoder_{number}"
            pipeline.load_lora_into_text_encoder(tensors, alphas, encoder, prefix, adapter_name=LOADED)
    layers = [layer for module in (unet, *encoders) for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    layers = [layer for layer in layers if TRAINED in layer.lora_A]  # where an LCM-LoRA was for samples, there is none
    good = sum(map(is_same, layers))
    if good < len(layers):
        raise ValueError(f"{file}: only {good} of {len(layers)} modules load back in diffusers.")
    return f"{good} of {len(layers)} modules load back in diffusers"


def is_same(layer: BaseTunerLayer) -> bool:
    """Whether what was loaded adds to the layer's weight what was trained, as fp16 has it: next to nothing it rounds off."""
    trained, loaded = (delta(layer, name) for name in (TRAINED, LOADED))
    return loaded is not None and bool((trained - loaded).norm() <= TOLERANCE * trained.norm())


def delta(layer: BaseTunerLayer, adapter: str) -> torch.Tensor | None:
    if adapter not in layer.lora_A:
        return None
    down, up = (side[adapter].weight.detach().half().float().flatten(1) for side in (layer.lora_A, layer.lora_B))
    return layer.scaling[adapter] * up @ down
