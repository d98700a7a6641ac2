"""Starts from a model that there is: its parts stand for the results of the stages that would make them from nothing."""

import shutil
from pathlib import Path

from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..files import atomic_write
from . import classifier, render
from .export import LORA

# A folder of the model -> the folder in work that holds the result of a stage, and what loads it.
RESULTS = {
    "vae": ("autoencoder", AutoencoderTiny),
    "text_encoder": ("text_encoder", CLIPTextModel),
    "text_encoder_2": ("text_encoder_2", CLIPTextModelWithProjection),
    "unet": ("base", UNet2DConditionModel),
}
INITIAL_LORA = "initial-lcm-lora.safetensors"


def start_from(folder: Path, work: Path) -> None:
    """Writes the parts of the diffusers folder `folder` into work: its LCM-LoRA, too, is one to begin with.

    What is there already stays.
    """
    for part, (result, kind) in RESULTS.items():
        if not (work / result).exists():
            model = kind.from_pretrained(folder / part).float()
            if part == "unet":
                model.register_to_config(sample_size=render.SIZE // 8)
            with atomic_write(work / result) as partial:
                model.save_pretrained(partial)
    for source, copy in ((classifier.WEIGHTS, classifier.WEIGHTS), (LORA, INITIAL_LORA)):
        if not (work / copy).exists():
            with atomic_write(work / copy) as partial:
                shutil.copyfile(folder / source, partial)
