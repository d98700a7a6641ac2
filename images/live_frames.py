"""The frames of a live client: the newest is the one that is drawn."""

import time
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from server import PromptServer

from . import decode


class Frame:
    """An image file as it came over a socket, decoded when it is first looked at, at 8 bits a sample mostly.

    serial: its place among all frames of its session. number: its place among those of its sender.
    """

    def __init__(self, serial: int, sender: object, number: int, file: bytes):
        self.serial, self.sender, self.number, self.file = serial, sender, number, file
        self.arrived_at = time.perf_counter()
        self.image: Image.Image | None = None

    def decode(self) -> Image.Image:
        """As decode.open_file, once."""
        if self.image is None:
            self.image = decode.open_file(self.file)
        return self.image

    def pixels(self) -> np.ndarray:
        """[H, W, 3], fp32 in 0..1. ValueError where the file is damaged."""
        return decode.to_float(self.decode())[0]

    def difference(self, other: "Frame") -> float:
        """The mean difference of all samples, 0..1; 1 where the sizes are different, or the other one was never decoded."""
        if other.image is None or self.decode().size != other.image.size:
            return 1.0
        mine, its = (np.asarray(decode.composite_over_white(frame.image), np.int16) for frame in (self, other))
        return float(np.abs(mine - its).mean() / 255)


@runtime_checkable
class FrameSource(Protocol):
    """Stands among the server's sockets, in the place of a websocket. Called on the thread that runs prompts."""

    last_latents: dict[str, torch.Tensor]  # by node id: what came out of Live Latent for the last picture

    def take_frame(self) -> str:
        """Makes the newest frame the one of this picture: its name, which no other frame has."""

    def current_frame(self) -> Frame:
        """The one of this picture."""


def frame_source(server: PromptServer) -> FrameSource | None:
    """The client whose prompt runs now, if it sends frames."""
    client = server.sockets.get(server.client_id)
    return client if isinstance(client, FrameSource) else None
