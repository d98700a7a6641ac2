"""The parts of a checkpoint in one file (Stability's layout), told from its keys and shapes, never from its name."""

import re
from pathlib import Path
from typing import NamedTuple

import comfy.supported_models
import torch

from . import text_encoders, unet_layout, weights

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = ("conditioner.embedders.", "cond_stage_model.")
# Since transformers 5 a CLIPTextModel is saved without text_model., which the host adds in SD 1.5's layout alone.
UNPREFIXED = re.compile(r"^(conditioner\.embedders\.0\.transformer\.)(?=embeddings|encoder|final_layer_norm)")
# Keys of models that do not predict the noise, and what those models are.
OTHER_PREDICTIONS = {
    "v_pred": "a v-prediction model",
    "edm_mean": "an EDM model (Playground 2.5)",
    "edm_vpred.sigma_max": "an EDM v-prediction model (CosXL)",
}
# Where the file says so (github.com/Stability-AI/ModelSpec, and what the host writes).
PREDICTION_METADATA = ("modelspec.prediction_type", "modelspec.predict_key")


class Parts(NamedTuple):
    """What a checkpoint file holds: the UNet under diffusers' names, text encoders and autoencoder under their own."""

    config: dict
    unet: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]


def read(path: Path) -> Parts:
    """Every part of a checkpoint file; ValueError saying what else the file is."""
    found, metadata = weights.read(path)
    kinds = [kind for key, kind in OTHER_PREDICTIONS.items() if key in found]
    kinds += ["a v-prediction model" for key in PREDICTION_METADATA if metadata.get(key, "").lower().startswith("v")]
    if kinds:
        raise ValueError(f"{path} is {kinds[0]}; only models that predict the noise (epsilon) are supported.")
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
    return Parts(config, unet, {key: tensor for key, tensor in found.items() if key.startswith(TEXT)}, vae)


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


def encoders(path: Path, parts: Parts) -> dict[str, text_encoders.Encoder]:
    """The host's name of each text encoder (clip_l, and in the SDXL family clip_g) -> the encoder."""
    xl = parts.config["addition_embed_type"] is not None
    family = comfy.supported_models.SDXL if xl else comfy.supported_models.SD15
    text = {UNPREFIXED.sub(r"\1text_model.", key): tensor for key, tensor in parts.text.items()}
    try:
        renamed = family({}).process_clip_state_dict(text)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{path}: its text encoders can't be read ({error}). Download it again.") from error
    result = {}
    for name in ("clip_l", "clip_g") if xl else ("clip_l",):
        encoder = within(renamed, f"{name}.transformer.")
        if name == "clip_l":  # some files hold a projection, which is never used
            encoder = {key: tensor for key, tensor in encoder.items() if "text_projection" not in key}
        try:
            config = text_encoders.config(encoder, text_encoders.ACTIVATION[name])
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{path} lacks the text encoder {name} or a part of it ({error}): Load Vega needs the whole model. "
                "Use a file that holds it, or a diffusers folder."
            ) from error
        result[name] = text_encoders.Encoder(path, path, config, encoder)
    return result
