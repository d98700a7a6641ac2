"""A diffusers folder to MODEL, CLIP and VAE."""

import json
from pathlib import Path

import comfy.model_patcher
import comfy.sd

from . import autoencoder, text_encoders, unet

NANO = Path(__file__).parent / "nano"
NANO_LORA = NANO / "lcm-lora" / "pytorch_lora_weights.safetensors"


def load(
    folder: Path, vae: str, embedding_directory: list[str]
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """Every part of a diffusers folder, complete or refused.

    vae: "tiny" (the folder's AutoencoderTiny) or "full" (its AutoencoderKL).
    Raises ValueError naming the file, what is wrong with it and what to do.
    """
    for part in ("unet", "text_encoder", "vae"):
        if not (folder / part / "config.json").is_file():
            raise ValueError(f"{folder} is not a whole diffusers folder: {part}/config.json is missing. Download it again.")
    check_prediction(folder / "scheduler" / "scheduler_config.json")
    model = unet.load(folder / "unet")
    clip = text_encoders.load(folder, embedding_directory)
    return model, clip, autoencoder.load(folder / "vae", vae, model.model.latent_format)


def check_prediction(path: Path) -> None:
    """ValueError for a model that predicts anything but the noise, which would be drawn wrong without a word."""
    if path.is_file():
        prediction = json.loads(path.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
        if prediction != "epsilon":
            raise ValueError(f"{path}: prediction_type = {prediction!r} is not supported (only 'epsilon').")
