"""The parts of a checkpoint in one file (the LDM layout), told from its keys and shapes, never from its name."""

from pathlib import Path
from typing import NamedTuple

import torch

from . import prediction, unet_keys, unsupported, weights

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
TEXT_PREFIXES = ("conditioner.embedders.", "cond_stage_model.")


class Parts(NamedTuple):
    """What a checkpoint file holds: the UNet under diffusers' names, text encoders and autoencoder under their own."""

    config: dict
    unet: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]


def read(path: Path) -> Parts:
    """Every part of a checkpoint file; ValueError saying what else the file is."""
    state_dict, metadata = weights.read(path)
    prediction.check_file(path, state_dict.keys(), metadata)
    unsupported.check(path, state_dict)
    unet, vae = strip_prefix(state_dict, UNET_PREFIX), strip_prefix(state_dict, VAE_PREFIX)
    if not unet:
        raise ValueError(f"{path} is not a checkpoint: it is {unsupported.describe_file(state_dict)}.")
    # unet.load takes diffusers' names back to the host's: numbers may have gaps here, and the config is read from names.
    names = unet_keys.ldm_to_diffusers(list(unet))
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path} holds some weights of the UNet twice. Download it again.")
    unet = {names[key]: tensor for key, tensor in unet.items()}
    try:
        config = unet_keys.infer_config(unet)
    except (KeyError, IndexError) as error:
        other = unsupported.identify_other_family(unet)
        raise ValueError(
            f"{path} holds no whole UNet of the SDXL or SD 1.5 family"
            + (
                f": it is {other}. Load it with ComfyUI's own nodes."
                if other
                else f" ({error} is missing or of another shape)."
            )
            + ("" if other else " If it should, download it again.")
        ) from error
    return Parts(config, unet, {key: tensor for key, tensor in state_dict.items() if key.startswith(TEXT_PREFIXES)}, vae)


def strip_prefix(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under the prefix, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
