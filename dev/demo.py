"""Draws one picture through the real server: PROMPT, STEPS and SEED in the environment vary it."""

import os
import shutil
import sys
import time

from tqdm import tqdm

from vega_client import Client, VegaError

from . import comfyui, host

WORKFLOW = host.ROOT / "workflows" / "api" / "vega_txt2img.json"
BAR_FORMAT = "{bar:40} {n_fmt}/{total_fmt}"  # of the node that runs


def int_from_environment(name: str) -> int | None:
    """The environment variable as a whole number, None if unset or empty."""
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        sys.exit(f"{name} must be a whole number, not {text!r}.")


def main() -> None:
    asked = {
        "CLIPTextEncode.text": os.environ.get("PROMPT") or None,
        "VegaLCMSampler.steps": int_from_environment("STEPS"),
        "VegaLCMSampler.seed": int_from_environment("SEED"),
    }
    overrides = {name: value for name, value in asked.items() if value is not None}
    began = time.monotonic()
    try:
        with (
            comfyui.serve(host.ROOT / ".comfyui") as server,
            Client(server.url) as client,
            tqdm(bar_format=BAR_FORMAT) as bar,
        ):
            started = time.monotonic()

            def show(done: int, steps: int) -> None:
                bar.total = steps
                bar.update(done - bar.n)

            client.queue(WORKFLOW, overrides, on_progress=show)
            drawn = time.monotonic()
            saved = max((server.base / "output").glob("*.png"), key=lambda file: file.stat().st_mtime)
            (host.ROOT / "output").mkdir(exist_ok=True)
            picture = shutil.copy(saved, host.ROOT / "output")
    except (VegaError, OSError, RuntimeError) as error:
        sys.exit(f"No picture: {error}")
    print(f"{'server start':16}{started - began:8.2f} s")
    print(f"{'first picture':16}{drawn - started:8.2f} s")
    print(picture)


if __name__ == "__main__":
    main()
