"""An LCM-LoRA file onto a model: every module, or a clear refusal."""

import json
import logging
import re
from pathlib import Path

import comfy.lora
import comfy.model_patcher
import torch

from . import lcm, unet, weights

# A module's place in the network, in front of what it is: "down_blocks.1.attentions.0.transformer_blocks.0.attn1.".
PLACE = re.compile(
    r"^(down_blocks\.\d+\.|up_blocks\.\d+\.|mid_block\.)?"
    r"((resnets|attentions)\.\d+\.)?(transformer_blocks\.\d+\.)?(attn[12]\.)?"
)
PREFIX = re.compile(r"^(base_model\.model\.)?(unet\.)?(base_model\.model\.)?")
SIDES = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "alpha": "alpha",
}
# Modules that the published LCM-LoRAs adapt, by the base they were distilled from.
BASES = {788: "SDXL", 423: "SSD-1B", 233: "Segmind-Vega", 278: "Stable Diffusion 1.5"}


def apply(model: comfy.model_patcher.ModelPatcher, path: Path, strength: float) -> comfy.model_patcher.ModelPatcher:
    """A clone of the model with the LCM-LoRA as a weight patch and LCM sampling set; the model itself at strength 0.

    Raises ValueError unless the file adapts exactly the modules that an LCM-LoRA for this model adapts.
    """
    if strength == 0:
        return model
    if lcm.has_lcm_sampling(model):
        raise ValueError("This model already samples as an LCM: apply one LCM-LoRA, and only one, to a base model.")
    tensors, metadata = weights.read(path)
    state_dict = model.model.diffusion_model.state_dict()
    names = unet.diffusers_names(model.model.model_config.unet_config, state_dict)
    targets = {
        name.removesuffix(".weight"): key
        for name, key in names.items()
        if name.endswith(".weight") and state_dict[key].ndim >= 2
    }
    adapter = grouped(path, tensors, targets)
    check_modules(path, set(adapter), targets)
    alphas = peft_alphas(metadata)

    renamed, key_map = {}, {}
    for module, sides in adapter.items():
        weight = state_dict[targets[module]]
        down, up = sides.get("down"), sides.get("up")
        if down is None or up is None:
            raise ValueError(f"{path}: {module} has only one of its two matrices. Download the file again.")
        if down.shape[1:] != weight.shape[1:] or up.shape[0] != weight.shape[0] or up.shape[1] != down.shape[0]:
            raise ValueError(
                f"{path}: {module} is for a weight of {[up.shape[0], *down.shape[1:]]}, this model's is "
                f"{list(weight.shape)}: the file was made for another base."
            )
        renamed[f"{module}.lora_down.weight"] = down
        renamed[f"{module}.lora_up.weight"] = up
        alpha = sides.get("alpha", alphas(module))
        if alpha is not None:
            renamed[f"{module}.alpha"] = torch.as_tensor(float(alpha))
        key_map[module] = f"diffusion_model.{targets[module]}"
    patches = comfy.lora.load_lora(renamed, key_map, log_missing=False)

    patched = model.clone()
    applied = patched.add_patches(patches, strength)
    if len(applied) != len(adapter):
        raise ValueError(f"{path}: the host took {len(applied)} of {len(adapter)} modules.")
    patched.add_object_patch("model_sampling", lcm.LCMSampling(model.model.model_config))
    rank = next(iter(adapter.values()))["down"].shape[0]
    logging.info("LCM-LoRA %s: %d of %d modules, rank %d", path.name, len(applied), len(adapter), rank)
    return patched


def grouped(path: Path, tensors: dict[str, torch.Tensor], targets: dict[str, str]) -> dict[str, dict[str, torch.Tensor]]:
    """diffusers' name of each adapted module -> its "down", "up" and perhaps "alpha", from kohya or PEFT keys."""
    kohya = {"lora_unet_" + name.replace(".", "_"): name for name in targets}
    adapter = {}
    for key, tensor in tensors.items():
        side = next((s for s in SIDES if key.endswith("." + s)), None)
        if side is None:
            raise ValueError(f"{path}: {key!r} is not part of an LCM-LoRA in kohya or PEFT style.")
        module = key.removesuffix("." + side)
        module = kohya.get(module) or PREFIX.sub("", module)
        adapter.setdefault(module, {})[SIDES[side]] = tensor
    if not adapter:
        raise ValueError(f"{path} is empty: it holds no LoRA. Download it again.")
    return adapter


def check_modules(path: Path, found: set[str], targets: dict[str, str]) -> None:
    """ValueError unless the file adapts every module of the kinds that it adapts, and nothing else.

    Names and shapes alone would let an SDXL LCM-LoRA onto Vega: the smaller model's modules are a subset.
    """
    strangers = sorted(found - targets.keys())
    kinds = {PLACE.sub("", module) for module in found}
    expected = {module for module in targets if PLACE.sub("", module) in kinds}
    missing = sorted(expected - found)
    if not strangers and not missing:
        return
    made_for = BASES.get(len(found), "another base")
    parts = [f"{len(found & targets.keys())} of its {len(found)} modules exist in this model"]
    if strangers:
        parts.append(f"not here: {weights.listing(strangers)}")
    if missing:
        parts.append(f"{len(missing)} of this model's are not in the file: {weights.listing(missing)}")
    raise ValueError(
        f"{path} was made for {made_for}, not for this model ({'; '.join(parts)}). "
        "Use the LCM-LoRA that was distilled from this model."
    )


def peft_alphas(metadata: dict[str, str]):
    """module -> alpha from the adapter configuration that newer diffusers writes into the file, or None without one."""
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    config = {key.removeprefix("unet."): value for key, value in config.items()}
    patterns = config.get("alpha_pattern") or {}

    def alpha(module: str):
        for pattern, value in patterns.items():
            if re.search(rf"(^|\.){pattern}$", module):
                return value
        return config.get("lora_alpha")

    return alpha
