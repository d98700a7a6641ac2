"""A trained UNet with all else that its base has, as a diffusers folder, in fp16."""

import json
import shutil
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig

from vega.encoder_files import normalize_keys

from .base import ENCODERS, NANO, PIXELS_PER_LATENT, Base, open_base
from .diffusion import NOISE_SCHEDULE

MODEL_INDEX = "model_index.json"
ENCODER_FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# What transformers 5 loads a text encoder in when nobody says: diffusers then loads all else in fp32, whatever the files
# hold.
ENCODER_DTYPE = "float32"
TOKENIZERS = ("tokenizer", "tokenizer_2")
# Segmind-Vega's own scheduler_config.json.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": diffusers.__version__,
    **dict(sorted(NOISE_SCHEDULE.items())),
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def write(
    folder: Path, unet: UNet2DConditionModel, base: Base, vae: AutoencoderKL | AutoencoderTiny, resolution: int
) -> None:
    """unet was trained from base at this resolution, in pixels; its own config.json goes with it."""
    unet.register_to_config(sample_size=resolution // PIXELS_PER_LATENT)
    for name, module in (("unet", unet), ("vae", vae)):
        module.save_config(folder / name)
        save_half(module.state_dict(), folder / name / "diffusion_pytorch_model.safetensors")
    for name, encoder in base.stored_encoders().items():
        part = folder / ENCODER_FOLDERS[name]
        config = CLIPTextConfig.from_dict(encoder.config).to_dict()
        config |= {"architectures": [ENCODERS[name].__name__], "dtype": ENCODER_DTYPE}
        write_json(part / "config.json", config)
        tensors = normalize_keys(encoder.state_dict, True, encoder.width)
        if name == "clip_l":  # some files hold a projection, which is never used
            tensors.pop("text_projection.weight", None)
        save_half(tensors, part / "model.safetensors")
    for name in TOKENIZERS[: 1 + base.is_xl]:
        shutil.copytree(NANO / name, folder / name)
    scheduler = base.scheduler if "_class_name" in base.scheduler else SCHEDULER
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = model_index(base.is_xl, type(vae).__name__, base.zero_unconditional, scheduler["_class_name"])
    write_json(folder / MODEL_INDEX, index)


def model_index(is_xl: bool, vae: str, zero_unconditional: bool, scheduler: str = SCHEDULER["_class_name"]) -> dict:
    """model_index.json of a folder with this class of autoencoder and this one of scheduler."""
    parts = {
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", vae],
    }
    if is_xl:
        parts["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        parts["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
        said = {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": zero_unconditional}
    else:
        parts |= dict.fromkeys(("feature_extractor", "safety_checker"), [None, None])
        said = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False}
    return dict(sorted({"_diffusers_version": diffusers.__version__, **said, **parts}.items()))


def check(folder: Path, unet: UNet2DConditionModel) -> str:
    """The sentence that the UNet's weights load back; ValueError where they do not."""
    trained, loaded = unet.state_dict(), open_base(str(folder)).unet(torch.float16).state_dict()
    wrong = [name for name, weight in trained.items() if not torch.equal(weight.half().cpu(), loaded[name])]
    if wrong:
        raise ValueError(f"{folder}: {len(wrong)} of {len(trained)} weights don't load back ({wrong[0]} is the first).")
    return f"{len(trained)} of {len(trained)} weights load back"


def save_half(tensors: dict[str, torch.Tensor], file: Path, about: dict[str, str] | None = None) -> None:
    """about: metadata of the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: half(tensor) for name, tensor in tensors.items()}, file, metadata={"format": "pt", **(about or {})})


def half(tensor: torch.Tensor) -> torch.Tensor:
    """In fp16, on the CPU, and apart from all others."""
    return tensor.detach().to("cpu", torch.float16, copy=True).contiguous()


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
