"""Apply LCM-LoRA (Vega)."""

from comfy_api.v0_0_2 import io

from ..vega import lora
from . import face_notes, model_lists
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
                    options=LazyList.of(model_lists.lcm_lora_names),
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
        return model_lists.validate(model_lists.lora_path, lora_name)

    @classmethod
    def execute(cls, model, lora_name, strength_model) -> io.NodeOutput:
        patched = lora.apply(model, model_lists.lora_path(lora_name), strength_model)
        face_notes.say(face_notes.applied(len(lora.lcm_targets(model)), strength_model))
        return io.NodeOutput(patched)
