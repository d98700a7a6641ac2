"""Load LoRA (Vega)."""

from comfy_api.v0_0_2 import io

from ..vega import style_lora
from . import face_notes, model_lists
from .lazy_list import LazyList


class VegaLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLoraLoader",
            display_name="Load LoRA (Vega)",
            category="Vega",
            description="Puts a LoRA for a style or a subject on a model: all of it, of any key style, or an error. LoRAs "
            "for SD 1.5 reach the right blocks of small-sd and tiny-sd.",
            search_aliases=["lora", "style lora", "load lora", "small-sd", "tiny-sd", "peft"],
            inputs=[
                io.Model.Input("model", tooltip="The model, before or after Apply LCM-LoRA (Vega)."),
                io.Combo.Input(
                    "lora_name",
                    options=LazyList.of(model_lists.lora_names),
                    tooltip="The LoRA, from models/loras. One for another base is refused.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="How strongly the UNet is changed; 0 not at all.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoders, for a LoRA that was trained on them as well."
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    optional=True,
                    tooltip="How strongly the text encoders are changed; 0 not at all.",
                ),
                io.Combo.Input(
                    "made_for",
                    options=list(style_lora.MADE_FOR_OPTIONS),
                    default=style_lora.AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="For small-sd and tiny-sd alone: what the LoRA was trained on. auto tells it by its modules.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA."),
                io.Clip.Output(tooltip="The text encoders with the LoRA."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name):
        return model_lists.validate(model_lists.lora_path, lora_name)

    @classmethod
    def execute(
        cls, model, lora_name, strength_model, clip=None, strength_clip=1.0, made_for=style_lora.AUTO
    ) -> io.NodeOutput:
        path = model_lists.lora_path(lora_name)
        model, clip, applied = style_lora.apply(model, clip, path, strength_model, strength_clip, made_for)
        face_notes.send_notes(*lora_notes(applied, strength_model, strength_clip))
        return io.NodeOutput(model, clip, ui={"lora": [applied.summary]})  # in /history, for programs


def lora_notes(applied: style_lora.AppliedLora, strength_model: float, strength_clip: float) -> list[face_notes.Note]:
    """What is on the UNet, what is on the text encoders, and a warning where the latter's part is left out."""
    found = []
    if applied.modules:
        found.append(face_notes.lora_note(applied.modules, strength_model, applied.modules_in_file))
    if applied.text_modules:
        values = {"count": applied.text_modules, "strength": str(round(strength_clip, 2))}
        found.append(face_notes.Note("appliedText", values))
    if applied.lacks_clip:
        found.append(face_notes.Note("noClip", {}, is_warning=True))
    return found or [face_notes.lora_note(0, 0.0)]
