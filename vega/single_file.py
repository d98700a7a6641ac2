"""The parts of a checkpoint in one file (Stability's layout), told from its keys and shapes, never from its name."""

import re
from pathlib import Path
from typing import NamedTuple

import comfy.supported_models
import torch

from . import prediction, text_encoders, unet_keys, unsupported, weights

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
TEXT = ("conditioner.embedders.", "cond_stage_model.")
# Since transformers 5 a CLIPTextModel is saved without text_model., which the host adds in SD 1.5's layout alone.
WITHOUT_TEXT_MODEL = re.compile(r"^(conditioner\.embedders\.0\.transformer\.)(?=embeddings|encoder|final_layer_norm)")


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
        raise ValueError(f"{path} is not a checkpoint: it is {unsupported.describe(state_dict)}.")
    # unet.load takes diffusers' names back to the host's: numbers may have gaps here, and the config is read from names.
    names = unet_keys.stability_to_diffusers(list(unet))
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path} holds some weights of the UNet twice. Download it again.")
    unet = {names[key]: tensor for key, tensor in unet.items()}
    try:
        config = unet_keys.infer_config(unet)
    except (KeyError, IndexError) as error:
        other = unsupported.other_model(unet)
        raise ValueError(
            f"{path} holds no whole UNet of the SDXL or SD 1.5 family"
            + (
                f": it is {other}. Load it with ComfyUI's own nodes."
                if other
                else f" ({error} is missing or of another shape)."
            )
            + ("" if other else " If it should, download it again.")
        ) from error
    return Parts(config, unet, {key: tensor for key, tensor in state_dict.items() if key.startswith(TEXT)}, vae)


def strip_prefix(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under the prefix, without it."""
    return {key[len(prefix) :]: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}


def encoders(path: Path, parts: Parts) -> dict[str, text_encoders.Encoder]:
    """The host's name of each text encoder (clip_l, and in the SDXL family clip_g) -> the encoder."""
    xl = parts.config["addition_embed_type"] is not None
    family = comfy.supported_models.SDXL if xl else comfy.supported_models.SD15
    text = {WITHOUT_TEXT_MODEL.sub(r"\1text_model.", key): tensor for key, tensor in parts.text.items()}
    try:
        renamed = family({}).process_clip_state_dict(text)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{path}: its text encoders can't be read ({error}). Download it again.") from error
    result = {}
    for name in ("clip_l", "clip_g") if xl else ("clip_l",):
        encoder = strip_prefix(renamed, f"{name}.transformer.")
        if name == "clip_l":  # some files hold a projection, which is never used
            encoder = {key: tensor for key, tensor in encoder.items() if "text_projection" not in key}
        try:
            config = text_encoders.infer_config(encoder, text_encoders.ACTIVATION[name])
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{path} lacks the text encoder {name} or a part of it ({error}): Load Vega needs the whole model. "
                "Use a file that holds it, or a diffusers folder."
            ) from error
        result[name] = text_encoders.Encoder(path, path, config, encoder)
    return result
