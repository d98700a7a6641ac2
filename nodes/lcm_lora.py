"""Apply LCM-LoRA (Vega)."""

import logging
from pathlib import Path

from comfy_api.v0_0_2 import io

from ..vega import lora
from . import face_notes, lcm_lora_files, model_lists
from .lazy_list import LazyList


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
                    options=LazyList.of(lcm_lora_files.names),
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
        return model_lists.validate(lcm_lora_files.path, lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name, **inputs):
        """Which file it is, so that one in its place is read; a name that comes over a link is None yet."""
        if lora_name is None:
            return None
        path = lcm_lora_files.path(lora_name)
        stat = path.stat()
        return str(path), stat.st_size, stat.st_mtime_ns

    @classmethod
    def execute(cls, model, lora_name, strength_model) -> io.NodeOutput:
        path = lcm_lora_files.path(lora_name)
        patched = lora.apply(model, path, strength_model)
        notes = [face_notes.applied(len(lora.lcm_targets(model)), strength_model)]
        if lora_name != model_lists.EMBEDDED_LORA and path.name != Path(lora_name).name:
            logging.info("Apply LCM-LoRA (Vega): %s is %s, by its contents", lora_name, path.name)
            notes.append(face_notes.Note("foundFile", {"name": lora_name, "file": path.name}))
        face_notes.say(*notes)
        return io.NodeOutput(patched)
