"""Apply LCM-LoRA (Vega)."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..vega import checkpoint, lora
from .lazy_list import LazyList
from .loader import missing

EMBEDDED = "vega-nano LCM-LoRA (embedded)"


def files() -> list[str]:
    """The files in models/loras, as they are saved in a workflow: with / on every system."""
    return [Path(name).as_posix() for name in folder_paths.get_filename_list("loras")]


def names() -> list[str]:
    return [EMBEDDED, *files()]


def located(lora_name: str) -> Path:
    """The file of a name in the list; ValueError where it is no longer there."""
    if lora_name == EMBEDDED:
        return checkpoint.NANO_LORA
    path = folder_paths.get_full_path("loras", lora_name)
    if path is None:
        raise ValueError(f"There is no LoRA {lora_name!r} in models/loras. Put it there, or press R and choose another.")
    return Path(path)


class VegaLCMLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLCMLora",
            display_name="Apply LCM-LoRA (Vega)",
            category="Vega",
            description="Makes a model draw in 1 to 8 steps: patches the whole LCM-LoRA in and sets LCM sampling.",
            search_aliases=["lcm", "vega rt", "lora", "few step", "turbo"],
            inputs=[
                io.Model.Input("model", tooltip="The base that the LCM-LoRA was distilled from."),
                io.Combo.Input(
                    "lora_name",
                    options=LazyList.of(names),
                    tooltip="The LCM-LoRA made for this base, from models/loras. One for another base is refused.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="1.0 is the trained strength; 0 leaves the model as it is.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The few-step model, for KSampler (Vega LCM).")],
        )

    @classmethod
    def validate_inputs(cls, lora_name):
        return missing(located, lora_name)

    @classmethod
    def execute(cls, model, lora_name, strength_model) -> io.NodeOutput:
        return io.NodeOutput(lora.apply(model, located(lora_name), strength_model))
