"""Prompts that send two pictures by Send Image (Vega), and the frames and files that come of them."""

import io
import json
import struct
import time

import numpy as np
from PIL import Image

SEND = "save_image_websocket_node"  # the name that the host's example client waits for
FORMATS = {"jpeg": "JPEG", "webp": "WEBP", "png": "PNG"}


def graph(format="jpeg", quality=95) -> dict:
    """Both pictures as one batch, sent."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise_0.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "noise_1.png"}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        SEND: {"class_type": "VegaSendImage", "inputs": {"images": ["3", 0], "format": format, "quality": quality}},
    }


def queue(client, prompt: dict, **extra_pnginfo) -> str:
    """The prompt's id, as the browser queues it: with a workflow beside it."""
    body = {"prompt": prompt, "client_id": client.id, "extra_data": {"extra_pnginfo": extra_pnginfo}}
    return client.server.post("/prompt", body).json()["prompt_id"]


def follow(client, prompt_id: str) -> list[bytes]:
    """The prompt's frames; each must come while a node of ours is the executing one."""
    frames, executing = [], ""
    for kind, data in client.events(prompt_id):
        if kind == "executing":
            executing = data["node"]
        elif kind == "preview":
            assert executing.startswith(SEND)
            frames.append(data)
    return frames


def run(client, prompt: dict, **extra_pnginfo) -> tuple[str, list[bytes]]:
    """(prompt id, frames) of a prompt."""
    prompt_id = queue(client, prompt, **extra_pnginfo)
    return prompt_id, follow(client, prompt_id)


def plain(frame: bytes) -> tuple[str, bytes]:
    """(format, file) of the host's plain image frame."""
    event, kind = struct.unpack(">II", frame[:8])
    assert event == 1
    return {1: "jpeg", 2: "png"}[kind], frame[8:]


def with_metadata(frame: bytes) -> tuple[dict, bytes]:
    """(metadata, file) of the host's metadata frame."""
    event, length = struct.unpack(">II", frame[:8])
    assert event == 4
    return json.loads(frame[8 : 8 + length]), frame[8 + length :]


def opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def finished(server, prompt_id: str) -> dict:
    """The prompt's /history, without a websocket."""
    while not (history := server.get(f"/history/{prompt_id}").json()):
        time.sleep(0.05)
    return history[prompt_id]


def check_picture(file: bytes, format: str, array: np.ndarray) -> None:
    image = Image.open(io.BytesIO(file))
    assert image.format == FORMATS[format]
    drawn = np.asarray(image)
    if format == "png":
        assert (drawn == array).all()
        return
    expected = io.BytesIO()
    Image.fromarray(array).save(expected, format, quality=95, **{"jpeg": {"subsampling": 0}, "webp": {"method": 0}}[format])
    assert (drawn == opened(expected.getvalue())).all()
