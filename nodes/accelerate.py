"""Accelerate (Vega)."""

from comfy_api.v0_0_2 import io

from ..vega import accelerate


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
        return io.NodeOutput(accelerate.apply(model, mode))
