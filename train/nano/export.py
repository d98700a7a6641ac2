"""Puts the trained parts together as the diffusers folder that the pack embeds."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ..model_folder import ENCODER_DTYPE, MODEL_INDEX, SCHEDULER, model_index, write_json
from . import classifier

LORA = Path("lcm-lora/pytorch_lora_weights.safetensors")


def export(work: Path, folder: Path) -> None:
    """Writes work's base, autoencoder and LCM-LoRA into folder as fp16, and the classifier that scores them.

    The tokenizers in folder stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "unet": UNet2DConditionModel.from_pretrained(work / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(work / "text_encoder"),
        "text_encoder_2": CLIPTextModelWithProjection.from_pretrained(work / "text_encoder_2"),
        "vae": AutoencoderTiny.from_pretrained(work / "autoencoder-sharp"),
    }
    for name, model in parts.items():
        model.to(torch.float16).save_pretrained(folder / name)
        config = folder / name / "config.json"
        settings = json.loads(config.read_text())
        settings.pop("_name_or_path", None)  # a path of the machine that trained it
        if "dtype" in settings:
            settings["dtype"] = ENCODER_DTYPE
        config.write_text(json.dumps(settings, indent=2) + "\n")
    write_json(folder / MODEL_INDEX, model_index(is_xl=True, vae="AutoencoderTiny", zero_unconditional=False))
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    (folder / LORA).parent.mkdir(exist_ok=True)
    shutil.copyfile(work / LORA, folder / LORA)
    shutil.copyfile(work / classifier.WEIGHTS, folder / classifier.WEIGHTS)
