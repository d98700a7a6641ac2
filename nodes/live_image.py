"""Live Image (Vega)."""

import hashlib

import torch
from comfy_api.v0_0_2 import io
from server import PromptServer

from ..images import decode, live_frames

NO_PICTURE_MESSAGE = (
    "There is no picture yet: press Live on this node, or paint on it. A program sends frames to /vega/live, "
    "or a picture in base64 as `picture`."
)


class VegaLiveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLiveImage",
            display_name="Live Image (Vega)",
            category="Vega",
            description="What you paint, your webcam, your screen or another program's frames: the picture follows at once, "
            "and no file is written.",
            search_aliases=["webcam", "paint", "canvas", "screen capture", "real time", "live", "stream", "camera"],
            inputs=[
                io.String.Input(
                    "picture",
                    default="",
                    tooltip="The painting, as a PNG, JPEG or WebP file in base64. Live frames are drawn in its place.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    round=0.001,
                    tooltip="Live frames that differ less than this from the one that was drawn last draw nothing. 0 draws "
                    "all; 0.01 is the noise of a webcam.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The newest frame, in RGB.")],
        )

    @classmethod
    def fingerprint_inputs(cls, picture, threshold) -> str:
        """The frame: nothing runs again for one that was drawn. The threshold is the loop's matter."""
        if source := live_frames.frame_source(PromptServer.instance):
            return source.take_frame()
        return hashlib.sha256(picture.encode()).hexdigest()

    @classmethod
    def execute(cls, picture, threshold) -> io.NodeOutput:
        """IMAGE [1, H, W, 3], fp32 in 0..1."""
        if source := live_frames.frame_source(PromptServer.instance):
            return io.NodeOutput(torch.from_numpy(source.current_frame().pixels())[None])
        if not picture:
            raise ValueError(NO_PICTURE_MESSAGE)
        return io.NodeOutput(torch.from_numpy(decode.to_float(decode.open_base64(picture))[0])[None])
