"""LoRA on a UNet and on text encoders by PEFT, and the file that it is saved to: kohya's keys with alpha.

ComfyUI, diffusers, A1111 and Forge read that form whole; of PEFT's own keys ComfyUI applies less than half.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from .files import atomic_write

TEXT_TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "out_proj")
# What the published LCM-LoRAs adapt.
LCM_TARGET_MODULES = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)


def add(
    module: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], initial: str | bool = "gaussian"
) -> list[nn.Parameter]:
    """Puts a LoRA on the modules whose names end with targets; its parameters, which alone can learn and never in half
    precision. initial: PEFT's init_lora_weights. ValueError where there is no such module.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=initial)
    module.add_adapter(config)
    if next(module.parameters()).dtype in (torch.float16, torch.bfloat16):
        cast_training_params(module, torch.float32)
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def add_lcm_lora(unet: nn.Module, rank: int, alpha: float) -> list[nn.Parameter]:
    """As add(), on the modules of the published LCM-LoRAs and initialised as they were, by PEFT's default."""
    return add(unet, rank, alpha, LCM_TARGET_MODULES, initial=True)


@contextmanager
def disable_adapters(module: nn.Module):
    """Within it the module is what it was without its adapter."""
    module.disable_adapters()
    try:
        yield
    finally:
        module.enable_adapters()


def prefixes(unet: nn.Module, encoders: list[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """kohya's prefix of each model that a file may adapt: lora_te_ is SD 1.5's encoder, lora_te1_ and lora_te2_ SDXL's."""
    yield "lora_unet_", unet
    for number, encoder in enumerate(encoders, 1):
        yield f"lora_te{number if len(encoders) > 1 else ''}_", encoder


def kohya_state_dict(unet: nn.Module, encoders: list[nn.Module], alpha: float) -> dict[str, torch.Tensor]:
    """The LoRA on the UNet, and on the text encoders where they have one, in fp16."""
    tensors = {}
    for prefix, module in prefixes(unet, encoders):
        if not getattr(module, "peft_config", None):
            continue
        for key, value in get_peft_model_state_dict(module).items():
            name, side = kohya_name(key, prefix)
            tensors[f"{name}.{side}.weight"] = value.half().contiguous().cpu()
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha), dtype=torch.float16)
    return tensors


def kohya_name(key: str, prefix: str) -> tuple[str, str]:
    """kohya's name of the module that PEFT's key is of, and of the matrix."""
    name, side = key.removesuffix(".weight").rsplit(".", 1)
    if prefix != "lora_unet_" and not name.startswith("text_model."):
        name = f"text_model.{name}"  # which transformers 5 leaves out
    return prefix + name.replace(".", "_"), "lora_down" if side == "lora_A" else "lora_up"


def load_unet_weights(unet: nn.Module, file: Path) -> None:
    """Gives the LoRA on the UNet the weights of a file in kohya's keys, of the same modules, rank and alpha."""
    stored = load_file(file)
    for key, value in get_peft_model_state_dict(unet).items():
        value.copy_(stored[f"{'.'.join(kohya_name(key, 'lora_unet_'))}.weight"])


def save(tensors: dict[str, torch.Tensor], out: Path, metadata: dict[str, str]) -> None:
    with atomic_write(out) as file:
        save_file(tensors, file, metadata={"format": "pt", **metadata})
