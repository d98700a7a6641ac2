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


def time_websocket(server: comfyui.Server, files: list[bytes]) -> list[float]:
    """Seconds of each frame, the next one sent when its picture is there. As to browsers, nothing is compressed."""
    socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/vega/live", timeout=600)
    socket.send(json.dumps({"type": "prompt", "prompt": build_prompt(node("VegaLiveImage", picture="", threshold=0.0))}))
    ages = []
    for file in files:
        began = time.perf_counter()
        socket.send_binary(file)
        while isinstance(socket.recv(), str):
            pass
        ages.append(time.perf_counter() - began)
    socket.close()
    return ages[WARM_UP:]


def time_uploads(server: comfyui.Server, client: comfyui.Client, files: list[bytes]) -> tuple[list[float], list[float]]:
    """(seconds of each frame, seconds of its nodes alone)."""
    ages, alone = [], []
    for k, file in enumerate(files):
        began = time.perf_counter()
        form = {"image": (f"webcam_{k}.jpg", file, "image/jpeg")}
        server.http.post(
            f"{server.url}/upload/image", files=form, data={"type": "temp", "overwrite": "true"}, timeout=600
        ).raise_for_status()
        shown = first = None
        for kind, data in client.events(client.queue(build_prompt(node("LoadImage", image=f"webcam_{k}.jpg [temp]")))):
            if kind == "executing" and data["node"] == "encode":
                first = time.perf_counter()
            if kind == "executing" and data["node"] == "output":
                alone.append(time.perf_counter() - first)
            if kind == "preview" and shown is None:
                shown = time.perf_counter() - began
        ages.append(shown)
    return ages[WARM_UP:], alone[WARM_UP:]


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
            files = make_frames(side)
            live = time_websocket(server, files)
            uploaded, alone = time_uploads(server, client, files)
            bare = statistics.median(alone)
            for name, seconds in (("/vega/live", live), ("files, as core's webcam", uploaded), ("the nodes alone", alone)):
                print(format_row(name, side, seconds, bare), flush=True)


if __name__ == "__main__":
    main()
