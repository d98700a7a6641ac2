"""Accelerate (Vega)."""

from comfy_api.v0_0_2 import io

from ..vega import accelerate
from . import face_notes


class VegaAccelerate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaAccelerate",
            display_name="Accelerate (Vega)",
            category="Vega",
            description="The same pictures sooner, with every sampler: the UNet's calls are recorded once, and replayed by "
            "the GPU alone.",
            search_aliases=["cuda graph", "torch compile", "speed", "fast", "real time"],
            inputs=[
                io.Model.Input("model", tooltip="The model, after all LoRAs: right before the sampler."),
                io.Combo.Input(
                    "mode",
                    options=list(accelerate.MODES),
                    default="auto",
                    tooltip="auto: CUDA graphs on NVIDIA GPUs, nothing elsewhere. compile: torch.compile as well; the first "
                    "picture of a size takes a minute, the next ones are the fastest. off: the model as it is.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model, accelerated.")],
        )

    @classmethod
    def execute(cls, model, mode) -> io.NodeOutput:
        patched = accelerate.apply(model, mode, report=say_state)
        runs = accelerate.resolve(model, mode)
        key = "on" if runs != "off" else "noGpu" if mode == "auto" else "off"
        face_notes.say(face_notes.Note(key, {"mode": runs}))
        return io.NodeOutput(patched)


def say_state(state: str, width: int, height: int) -> None:
    """On the node that the running sampler has its model from: by then this one may be in the host's cache."""
    face_notes.say_upstream("VegaAccelerate", face_notes.Note(state, {"size": f"{width} x {height}"}))
