"""Accelerate (Vega)."""

import comfy.model_management
from comfy_api.v0_0_2 import io

from ..vega import accelerate, cpu_unet
from . import face_notes


class VegaAccelerate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaAccelerate",
            display_name="Accelerate (Vega)",
            category="Vega",
            description="The same pictures sooner, with every sampler: the UNet's calls are recorded once and replayed by "
            "the GPU alone, or run on weights packed for the processor.",
            search_aliases=["cuda graph", "torch compile", "speed", "fast", "real time"],
            inputs=[
                io.Model.Input("model", tooltip="The model, after all LoRAs: right before the sampler."),
                io.Combo.Input(
                    "mode",
                    options=offered_modes(),
                    default="auto",
                    tooltip="auto: CUDA graphs on NVIDIA GPUs, packed weights on a processor, nothing elsewhere. compile: "
                    "torch.compile; the first picture of a size takes a minute. bf16: for processors that have it; pictures "
                    "change slightly. off: the model as it is.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model, accelerated.")],
        )

    @classmethod
    def validate_inputs(cls, mode):
        """True, or the sentence: the host's own says of bf16 only that it isn't in the list."""
        if mode == "bf16" and mode not in offered_modes():
            try:
                accelerate.check_bf16(comfy.model_management.get_torch_device())
            except ValueError as error:
                return str(error)
        return mode is None or mode in accelerate.MODES or f"mode is {mode!r}: choose one of {', '.join(offered_modes())}."

    @classmethod
    def execute(cls, model, mode) -> io.NodeOutput:
        patched = accelerate.apply(model, mode, report=report_state)
        runs = accelerate.resolve_mode(model, mode)
        key = "on" if runs != "off" else "noGpu" if mode == "auto" else "off"
        face_notes.send_notes(face_notes.Note(key, {"mode": mode}))
        return io.NodeOutput(patched)


def offered_modes() -> list[str]:
    """All modes; bf16 only where models run on a processor that has it."""
    has_bf16 = comfy.model_management.get_torch_device().type == "cpu" and cpu_unet.supports_bf16()
    return [mode for mode in accelerate.MODES if mode != "bf16" or has_bf16]


def report_state(state: str, width: int, height: int) -> None:
    """On the node that the running sampler has its model from: by then this one may be in the host's cache."""
    face_notes.send_notes_upstream("VegaAccelerate", face_notes.Note(state, {"size": f"{width} x {height}"}))
