"""A program at /vega/live, its frames and the graph that it draws them through."""

import base64
import io
import json
import socket
import time

import numpy as np
import websocket
from PIL import Image

NANO, NANO_LORA = "vega-nano (embedded)", "vega-nano LCM-LoRA (embedded)"
ANSWER_SECONDS = 120
A_NAME = "a-name-that-nobody-guesses"


def graph(text: str = "a bright day, hills", format: str = "png", feedback: float | None = None, **live) -> dict:
    """From Live Image to Send Image in one step, through Live Latent where there is a feedback."""
    nodes = {
        "1": ("VegaLoader", {"model_name": NANO, "vae": "tiny"}),
        "2": ("VegaLCMLora", {"model": ["1", 0], "lora_name": NANO_LORA, "strength_model": 1.0}),
        "3": ("CLIPTextEncode", {"clip": ["1", 1], "text": text}),
        "4": ("VegaLiveImage", {"picture": "", "threshold": 0.0, **live}),
        "5": ("VAEEncode", {"pixels": ["4", 0], "vae": ["1", 2]}),
        "6": ("VegaLCMSampler", {"model": ["2", 0], "seed": 1, "steps": 1, "positive": ["3", 0], "denoise": 0.7}),
        "7": ("VegaTinyVAEDecode", {"samples": ["6", 0], "vae": ["1", 2]}),
        "8": ("VegaSendImage", {"images": ["7", 0], "format": format, "quality": 90, "metadata": False}),
    }
    nodes["6"][1]["latent_image"] = ["5", 0] if feedback is None else ["9", 0]
    if feedback is not None:
        nodes["9"] = ("VegaLiveLatent", {"samples": ["5", 0], "feedback": feedback})
    return {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}


def slow_graph(**live) -> dict:
    """Twenty steps over the frame at 512 pixels: seconds, which an interrupt ends."""
    prompt = graph(**live)
    size = {"upscale_method": "bilinear", "width": 512, "height": 512, "crop": "disabled"}
    prompt["10"] = {"class_type": "ImageScale", "inputs": {"image": ["4", 0], **size}}
    prompt["5"]["inputs"]["pixels"] = ["10", 0]
    prompt["6"]["inputs"]["steps"] = 20
    return prompt


def plain_graph(**live) -> dict:
    """The frame itself, at once: Live Image into Send Image."""
    live = {"class_type": "VegaLiveImage", "inputs": {"picture": "", "threshold": 0.0, **live}}
    sent = {"images": ["4", 0], "format": "png", "quality": 90, "metadata": False}
    return {"4": live, "8": {"class_type": "VegaSendImage", "inputs": sent}}


def frame(level: int, side: int = 64, format: str = "png") -> bytes:
    """A grey square with a black corner."""
    pixels = np.full((side, side, 3), level, np.uint8)
    pixels[: side // 4, : side // 4] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def in_base64(file: bytes) -> str:
    return base64.b64encode(file).decode()


class LiveSocket:
    """A connection; numbers frames as the server does."""

    def __init__(self, server, name: str = "", **options):
        direct = socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_SECONDS)  # no proxy
        address = f"ws://127.0.0.1:{server.port}/vega/live" + (f"?name={name}" if name else "")
        self.socket = websocket.create_connection(address, timeout=ANSWER_SECONDS, socket=direct, **options)
        self.sent = 0

    def __enter__(self) -> "LiveSocket":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def prompt(self, graph: dict) -> None:
        self.socket.send(json.dumps({"type": "prompt", "prompt": graph}))

    def frame(self, file: bytes) -> int:
        self.socket.send_binary(file)
        self.sent += 1
        return self.sent

    def receive(self) -> tuple[dict, bytes | None]:
        """A message, and the picture's file that belongs to it."""
        message = json.loads(self.socket.recv())
        return message, self.socket.recv() if message["type"] == "picture" else None

    def next(self, *kinds: str) -> tuple[dict, bytes | None]:
        """The next message of these types."""
        while (received := self.receive())[0]["type"] not in kinds:
            pass
        return received


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def level(file: bytes) -> int:
    return opened(file).getpixel((60, 60))[0]


def wait_until(question) -> None:
    """Until its answer is something true."""
    deadline = time.monotonic() + 60
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interrupt(server, prompt_id: str | None = None) -> None:
    """What the button does, once a prompt runs; of one alone where it is named."""

    def running() -> list[str]:
        return [item[1] for item in server.get("/queue").json()["queue_running"]]

    wait_until(running)
    prompt_id = prompt_id or running()[0]
    while prompt_id in running():  # a prompt forgets what came before its start
        server.post("/interrupt", {"prompt_id": prompt_id}).raise_for_status()


BROKEN = frame(5)[:80]
FILL = b"\xff\xd8" + b"\xff" * 2**21  # which is read byte by byte, up to a marker that never comes
