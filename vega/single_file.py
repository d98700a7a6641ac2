"""The parts of a checkpoint in one file (Stability's layout), told from its keys and shapes, never from its name."""

from pathlib import Path
from typing import NamedTuple

import comfy.supported_models
import torch

from . import text_encoders, unet_layout, weights

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("conditioner.embedders.", "cond_stage_model.")
# Keys of models that do not predict the noise, and what those models are.
OTHER_PREDICTIONS = {
    "v_pred": "a v-prediction model",
    "edm_mean": "an EDM model (Playground 2.5)",
    "edm_vpred.sigma_max": "an EDM v-prediction model (CosXL)",
}


class Parts(NamedTuple):
    """What a checkpoint file holds: the UNet under diffusers' names, each text encoder, the autoencoder as it is."""

    config: dict
    unet: dict[str, torch.Tensor]
    encoders: dict[str, text_encoders.Encoder]
    vae: dict[str, torch.Tensor]


def read(path: Path) -> Parts:
    """Every part of a checkpoint file; ValueError saying what else the file is."""
    found, _ = weights.read(path)
    for key, kind in OTHER_PREDICTIONS.items():
        if key in found:
            raise ValueError(f"{path} is {kind}; only models that predict the noise (epsilon) are supported.")
    unet, vae = within(found, UNET), within(found, VAE)
    if not unet:
        raise ValueError(f"{path} is not a checkpoint: it is {what(found)}.")
    names = unet_layout.diffusers_names(list(unet))
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path} holds some weights of the UNet twice. Download it again.")
    unet = {names[key]: tensor for key, tensor in unet.items()}
    try:
        config = unet_layout.config(unet)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{path} holds no whole UNet of the SDXL or SD 1.5 family ({error} is missing or of another shape). "
            "If it should, download it again."
        ) from error
    if config["addition_embed_type"] is None and config["cross_attention_dim"] == 1024:
        raise ValueError(f"{path} is a Stable Diffusion 2 model, which is not supported.")
    return Parts(config, unet, encoders(path, found, config["addition_embed_type"] is not None), vae)


def within(found: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under the prefix, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in found.items() if key.startswith(prefix)}


def what(found: dict[str, torch.Tensor]) -> str:
    """What a file without a UNet's checkpoint keys is, as far as can be told."""
    if any(".lora_" in key or "_lora." in key for key in found):
        return "a LoRA, which belongs in models/loras"
    if any(key.startswith(("down_blocks.", "input_blocks.")) for key in found):
        return "a UNet alone; Load Vega needs the whole model, with its text encoders"
    return "empty" if not found else f"something with keys like {next(iter(found))!r}"


def encoders(path: Path, found: dict[str, torch.Tensor], xl: bool) -> dict[str, text_encoders.Encoder]:
    """The host's name of each text encoder (clip_l, and in the SDXL family clip_g) -> the encoder."""
    family = comfy.supported_models.SDXL if xl else comfy.supported_models.SD15
    text = {key: tensor for key, tensor in found.items() if key.startswith(TEXT)}
    try:
        renamed = family({}).process_clip_state_dict(text)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{path}: its text encoders can't be read ({error}). Download it again.") from error
    result = {}
    for name in ("clip_l", "clip_g") if xl else ("clip_l",):
        encoder = {
            key.removeprefix(f"{name}.").removeprefix("transformer."): tensor
            for key, tensor in renamed.items()
            if key.startswith(f"{name}.")
        }
        try:
            config = text_encoders.config(encoder, text_encoders.ACTIVATION[name])
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{path} lacks the text encoder {name} or a part of it ({error}): Load Vega needs the whole model. "
                "Use a file that holds it, or a diffusers folder."
            ) from error
        result[name] = text_encoders.Encoder(path, path, config, encoder)
    return result
