"""A UNet under diffusers' names as the host's MODEL, for any SDXL- or SD-shaped config.json."""

from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from . import diffusers_config, host_layers, sd15_blocks, weights


class SDXLShaped(comfy.supported_models.SDXL):
    """Any width and depth of SDXL's architecture; the head sizes come from config.json, not from the class."""

    unet_config = {}
    unet_extra_config = {}


class SDShaped(comfy.supported_models.SD15):
    """Any width and depth of Stable Diffusion 1's architecture."""

    unet_config = {}
    unet_extra_config = {}

    def get_model(self, state_dict, prefix="", device=None):
        if sd15_blocks.count_kept_levels(self.unet_config):
            return sd15_blocks.PrunedSD15Model(self, device=device)
        return super().get_model(state_dict, prefix, device)


def load(
    path: Path, config_source: Path, config: dict, state_dict: dict[str, torch.Tensor]
) -> comfy.model_patcher.ModelPatcher:
    """MODEL from a UNet2DConditionModel's config and its weights under diffusers' names, which `state_dict` loses.

    path and config_source are the files that errors name. ValueError where the host could not draw it exactly.
    """
    unet_config = diffusers_config.host_config(config, config_source)
    native = UNetModel(**unet_config, device="meta", operations=host_layers.EagerOps).state_dict()
    names = diffusers_to_native(unet_config, native)
    weights.check(path, state_dict, {name: native[key] for name, key in names.items()})
    family = SDXLShaped if unet_config["adm_in_channels"] else SDShaped
    model_config = family(unet_config)
    load_device = comfy.model_management.get_torch_device()
    dtypes = model_config.supported_inference_dtypes
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state_dict),
        supported_dtypes=dtypes,
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )
    manual_cast = comfy.model_management.unet_manual_cast(dtype, load_device, dtypes)
    model_config.set_inference_dtype(dtype, manual_cast)
    offload_device = comfy.model_management.unet_offload_device()
    model = model_config.get_model({}, device=offload_device)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)
    model.load_model_weights({names[name]: host_layers.cast(state_dict.pop(name), dtype) for name in list(state_dict)})
    return patcher


def diffusers_to_native(config: dict, native: dict[str, torch.Tensor]) -> dict[str, str]:
    """diffusers' name of each weight in the UNet's state dict -> the host's name, for the host's UNet config."""
    renamed = comfy.utils.unet_to_diffusers(config)
    # The host lists SDXL's add_embedding under a second name, that of an option which REQUIRED rules out.
    return {name: key for name, key in renamed.items() if key in native and not name.startswith("class_embedding.")}
