"""Receive Image (Vega)."""

import torch
from comfy_api.v0_0_2 import io

from ..images import decode


class VegaReceiveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaReceiveImage",
            display_name="Receive Image (Vega)",
            category="Vega",
            description="A picture that comes inside the prompt itself: a program needn't upload a file first.",
            search_aliases=["load image base64", "base64", "image from string", "api input"],
            inputs=[
                io.String.Input(
                    "image",
                    tooltip="A PNG, JPEG or WebP file in base64, with or without data:image/png;base64, in front of it.",
                )
            ],
            outputs=[
                io.Image.Output(tooltip="The picture in RGB, turned as its EXIF says, with white where it is transparent."),
                io.Mask.Output(tooltip="How transparent the picture is: 1 where nothing of it is seen."),
            ],
        )

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        """IMAGE [1, H, W, 3] and MASK [1, H, W], fp32 in 0..1."""
        rgb, transparency = decode.to_float(decode.open_base64(image))
        return io.NodeOutput(torch.from_numpy(rgb)[None], torch.from_numpy(transparency)[None])
