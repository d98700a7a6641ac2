"""Live Latent (Vega)."""

import torch
from comfy_api.v0_0_2 import io
from server import PromptServer

from ..images import live_frames


class VegaLiveLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLiveLatent",
            display_name="Live Latent (Vega)",
            category="Vega",
            description="Blends in what it gave for the last live picture, so that a video flickers less.",
            search_aliases=["feedback", "flicker", "temporal", "steady", "live", "smooth"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent of this frame, before the sampler or after it."),
                io.Float.Input(
                    "feedback",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the last one stays. 0 changes nothing; 0.2 to 0.5 is steadier; 1 stands still.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The blended latent.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, samples, feedback) -> io.NodeOutput:
        """Only live pictures have a last one, of the same node and size."""
        source = live_frames.frame_source(PromptServer.instance)
        if source is None:
            return io.NodeOutput(samples)
        id, blended = cls.hidden.unique_id, samples
        last = source.last_latents.get(id)
        if feedback > 0 and last is not None and last.shape == samples["samples"].shape:
            now = samples["samples"]
            blended = {**samples, "samples": torch.lerp(now, last.to(now), feedback)}
        source.last_latents[id] = blended["samples"]
        return io.NodeOutput(blended)
