"""The age of a frame when its picture is there: `python -m bench.live`.

Three ways for one frame of a size through one graph on vega-nano: over /vega/live; as core's webcam node has it (each
frame a file that is uploaded and a prompt that is queued); and the nodes alone, from the first that runs to the last.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import websocket
from PIL import Image

from dev import comfyui

from .graphs import node

SIZES = (128, 192, 256, 512)
FRAMES, WARM_UP = 40, 5


def build_prompt(source: dict) -> dict:
    return {
        "load": node("VegaLoader", model_name="vega-nano (embedded)", vae="tiny"),
        "lora": node("VegaLCMLora", model=["load", 0], lora_name="vega-nano LCM-LoRA (embedded)", strength_model=1.0),
        "text": node("CLIPTextEncode", clip=["load", 1], text="a bright day, rolling hills"),
        "frame": source,
        "encode": node("VAEEncode", pixels=["frame", 0], vae=["load", 2]),
        "sampler": node(
            "VegaLCMSampler",
            model=["lora", 0],
            seed=1,
            steps=2,
            positive=["text", 0],
            latent_image=["encode", 0],
            denoise=0.6,
        ),
        "decode": node("VegaTinyVAEDecode", samples=["sampler", 0], vae=["load", 2]),
        "output": node("VegaSendImage", images=["decode", 0], format="jpeg", quality=90, metadata=False),
    }


def make_frames(side: int) -> list[bytes]:
    """JPEG files of smooth pictures, none like another."""
    made = []
    for k in range(FRAMES + WARM_UP):
        coarse = np.random.default_rng(k).integers(0, 256, (8, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def connect(server: comfyui.Server) -> websocket.WebSocket:
    """A live picture of the graph. As to browsers, nothing is compressed."""
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/vega/live", timeout=600)
    socket.send(json.dumps({"type": "prompt", "prompt": build_prompt(node("VegaLiveImage", picture="", threshold=0.0))}))
    return socket


def time_websocket(socket: websocket.WebSocket, file: bytes) -> float:
    """Seconds from sending a frame to its picture."""
    began = time.perf_counter()
    socket.send_binary(file)
    while isinstance(socket.recv(), str):
        pass
    return time.perf_counter() - began


def time_upload(server: comfyui.Server, client: comfyui.Client, file: bytes, name: str) -> tuple[float, float]:
    """(seconds of a frame, seconds of its nodes alone); no other frame has the file's name."""
    began = time.perf_counter()
    form = {"image": (name, file, "image/jpeg")}
    server.http.post(
        f"{server.url}/upload/image", files=form, data={"type": "temp", "overwrite": "true"}, timeout=600
    ).raise_for_status()
    shown = first = alone = None
    for kind, data in client.events(client.queue(build_prompt(node("LoadImage", image=f"{name} [temp]")))):
        if kind == "executing" and data["node"] == "encode":
            first = time.perf_counter()
        if kind == "executing" and data["node"] == "output":
            alone = time.perf_counter() - first
        if kind == "preview" and shown is None:
            shown = time.perf_counter() - began
    return shown, alone


def measure(server: comfyui.Server, client: comfyui.Client, side: int) -> dict[str, list[float]]:
    """Seconds of FRAMES frames by each way, which take turns."""
    files, socket = make_frames(side), connect(server)
    times = {"/vega/live": [], "files, as core's webcam": [], "the nodes alone": []}
    live, uploaded, alone = times.values()
    for k, file in enumerate(files):
        live.append(time_websocket(socket, file))
        seconds, nodes = time_upload(server, client, file, f"webcam_{side}_{k}.jpg")
        uploaded.append(seconds)
        alone.append(nodes)
    socket.close()
    return {name: seconds[WARM_UP:] for name, seconds in times.items()}


def format_row(name: str, side: int, seconds: list[float], bare: float) -> str:
    p50, p95 = statistics.median(seconds), sorted(seconds)[int(0.95 * len(seconds))]
    return f"| {name} | {side} | {1000 * p50:.0f} | {1000 * p95:.0f} | {1000 * (p50 - bare):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides of the frames in pixels")
    sizes = parser.parse_args().sizes
    print("| way | side | p50 ms | p95 ms | p50 above the nodes alone |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as base, comfyui.serve(Path(base)) as server, server.connect() as client:
        for side in sizes:
            times = measure(server, client, side)
            bare = statistics.median(times["the nodes alone"])
            for name, seconds in times.items():
                print(format_row(name, side, seconds, bare), flush=True)


if __name__ == "__main__":
    main()
