"""The key styles of LoRA files, brought to one: diffusers' name of the module with underscores for dots, as kohya has it."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from . import unet_keys

# Some end like others: the longer of those first.
KEY_SUFFIXES = {
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora.alpha": "alpha",
    "_lora.alpha": "alpha",
    ".alpha": "alpha",
}
KOHYA_PREFIX = "lora_unet_"
PEFT_PREFIX = re.compile(r"^(base_model\.model\.)?(unet\.)?(base_model\.model\.)?")
NATIVE_BLOCK = re.compile(r"^(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)[._]\d")
TEXT_ENCODER_KEY_PATTERN = re.compile(r"^(lora_te\d?_|text_encoder|te\d?[._]|base_model\.model\.text)")


def is_text_encoder_key(key: str) -> bool:
    return bool(TEXT_ENCODER_KEY_PATTERN.match(key))


def to_kohya(name: str) -> str:
    """kohya's spelling of the module of a weight."""
    return name.removesuffix(".weight").replace(".", "_")


def group_whole_file(
    path: Path, tensors: dict[str, torch.Tensor], alphas_of: Callable[[dict[str, int]], dict[str, float]]
) -> dict[str, dict[str, torch.Tensor]]:
    """Each module that a LoRA file adapts in the UNet -> its "down", "up" and perhaps "alpha"; all modules are there.

    Stability's names become diffusers' by what their blocks hold: a file of a part of the modules is for group_by_module().
    """
    modules = split_sides(path, tensors)
    native = [module for module in modules if NATIVE_BLOCK.match(module)]
    names = unet_keys.ldm_to_diffusers([f"{module}.weight" for module in native])
    renamed = {module: names[f"{module}.weight"].removesuffix(".weight") for module in native}
    return add_alphas({renamed.get(module, module): sides for module, sides in modules.items()}, alphas_of)


def group_by_module(
    path: Path, tensors: dict[str, torch.Tensor], alphas_of: Callable[[dict[str, int]], dict[str, float]]
) -> dict[str, dict[str, torch.Tensor]]:
    """As group_whole_file(), of a file of any of the modules, each under its name in the file, diffusers' or Stability's."""
    return add_alphas(split_sides(path, tensors), alphas_of)


def split_sides(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Each UNet module of a LoRA file, without its key style's prefix -> its "down", "up" and perhaps "alpha".

    kohya's keys with diffusers' or Stability's names; PEFT's with and without its prefixes; diffusers' older
    `.processor.to_q_lora.down` and `.lora.down`; the host's own `diffusion_model.`; layers that PEFT had wrapped already
    (`.base_layer`). ValueError for any other key.
    """
    modules = {}
    for key, tensor in tensors.items():
        if is_text_encoder_key(key):
            continue
        ending = next((e for e in KEY_SUFFIXES if key.endswith(e)), None)
        if ending is None:
            raise ValueError(
                f"{path}: {key!r} is no part of a LoRA of two matrices (kohya, PEFT or diffusers keys). Try "
                "ComfyUI's own Load LoRA."
            )
        module = key.removesuffix(ending)
        if module.startswith(KOHYA_PREFIX):
            module = module.removeprefix(KOHYA_PREFIX).removesuffix("_base_layer")
            if NATIVE_BLOCK.match(module):
                module = re.sub(r"(\.\d+)_", r"\1.", re.sub(r"_(\d+)(?=_|$)", r".\1", module))
        else:
            module = (
                PEFT_PREFIX.sub("", module)
                .removeprefix("diffusion_model.")
                .replace(".processor.", ".")
                .replace(".base_layer", "")
            )
            if module.endswith(".to_out"):
                module += ".0"
        modules.setdefault(module, {})[KEY_SUFFIXES[ending]] = tensor
    return modules


def add_alphas(
    adapter: dict[str, dict[str, torch.Tensor]], alphas_of: Callable[[dict[str, int]], dict[str, float]]
) -> dict[str, dict[str, torch.Tensor]]:
    """The modules, in kohya's spelling.

    alphas_of takes module -> rank of those without an alpha of their own, and gives the alphas that are stated for them.
    """
    without = {m: sides["down"] for m, sides in adapter.items() if "alpha" not in sides and "down" in sides}
    alphas = alphas_of({module: down.shape[0] for module, down in without.items() if down.ndim})
    for module, alpha in alphas.items():
        adapter[module]["alpha"] = torch.tensor(alpha)
    return {to_kohya(module): sides for module, sides in adapter.items()}
