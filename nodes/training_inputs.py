"""The inputs that all nodes that train have, by the same names and texts, and what is said of wrong ones."""

import importlib.util
import sys

from comfy_api.v0_0_2 import io

from ..vega import file_names
from . import model_lists
from .lazy_list import LazyList

PACKAGES = ("accelerate", "peft")
NONE = "none"
MIN_RESOLUTION_PIXELS, MAX_RESOLUTION_PIXELS = 64, 4096


def model_name() -> io.Combo.Input:
    tooltip = "The model that the LoRA is for, as in Load Vega."
    return io.Combo.Input("model_name", options=LazyList.of(model_lists.model_names), tooltip=tooltip)


def name(default: str) -> io.String.Input:
    return io.String.Input("name", default=default, tooltip="Of the file in models/loras, without .safetensors.")


def hyperparameter_inputs(steps: int, rank: int) -> list:
    """How long, how fast and on what it is trained; with these defaults."""
    return [
        io.Int.Input("steps", default=steps, min=1, max=1_000_000, tooltip="Steps of the optimizer."),
        io.Float.Input(
            "learning_rate",
            default=1e-4,
            min=0.0,
            max=1.0,
            step=1e-6,
            tooltip="How fast it learns. 0.0001 is usual; 0.001 for vega-nano.",
        ),
        io.Int.Input("rank", default=rank, min=1, max=1024, tooltip="How much the LoRA can hold, and its file's size."),
        io.Int.Input(
            "resolution",
            default=0,
            min=0,
            max=MAX_RESOLUTION_PIXELS,
            step=8,
            tooltip="Side in pixels of the squares that are trained on; other shapes get the same area. 0 is the "
            "model's own. Less needs less memory and time.",
        ),
        # A switch that draws a new seed after each run would make each run another training.
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFF,
            control_after_generate=False,
            tooltip="The same settings and seed make the same LoRA.",
        ),
    ]


def instance_prompt() -> io.String.Input:
    tooltip = "The caption of pictures without their own, such as: a sks dog."
    return io.String.Input("instance_prompt", default="", optional=True, tooltip=tooltip)


def sample_prompts() -> io.String.Input:
    tooltip = "What is drawn now and then with what was learned so far, one prompt a line."
    return io.String.Input("sample_prompts", default="", multiline=True, optional=True, tooltip=tooltip)


def overwrite() -> io.Boolean.Input:
    tooltip = "Replaces a LoRA of that name with other settings or pictures. Off: it is refused."
    return io.Boolean.Input("overwrite", default=False, optional=True, tooltip=tooltip)


def batches(accumulation_steps: int) -> list:
    """How much is computed at once; with this default."""
    given = dict(optional=True, advanced=True)
    return [
        io.Int.Input("batch_size", default=1, min=1, max=256, tooltip="Pictures at once.", **given),
        io.Int.Input(
            "gradient_accumulation_steps",
            default=accumulation_steps,
            min=1,
            max=256,
            tooltip="How many batches make a step.",
            **given,
        ),
        io.Boolean.Input("gradient_checkpointing", default=True, tooltip="Less memory, for a third more time.", **given),
    ]


def validate(model_name, name, resolution) -> bool | str:
    """True, or the sentence; what comes over a link is None yet."""
    answers = (
        missing(PACKAGES) or True,
        model_lists.validate(model_lists.model_path, model_name),
        model_lists.validate(file_names.check, name),
        resolution is None
        or resolution == 0
        or MIN_RESOLUTION_PIXELS <= resolution <= MAX_RESOLUTION_PIXELS
        or f"resolution is {resolution}: give 0 for the model's own, or {MIN_RESOLUTION_PIXELS} to {MAX_RESOLUTION_PIXELS} "
        "pixels.",
    )
    return next((answer for answer in answers if answer is not True), True)


def missing(packages: tuple[str, ...]) -> str | None:
    """The sentence that says what to install, if one of these packages isn't there; training alone needs them."""
    if all(importlib.util.find_spec(package) for package in packages):
        return None
    command = f'"{sys.executable}" -m pip install {" ".join(packages)}'
    return f"Training needs {' and '.join(packages)}: run {command}, and start ComfyUI anew."


def lines(text: str) -> list[str]:
    """Those with something in them."""
    return [line.strip() for line in text.splitlines() if line.strip()]
