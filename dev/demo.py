"""Draws one picture through the real server: PROMPT, STEPS and SEED in the environment vary it."""

import json
import os
import sys
import time

from tqdm import tqdm

from . import comfyui, host

WORKFLOW = host.ROOT / "workflows" / "api" / "vega_txt2img.json"
BASE = host.ROOT / ".comfyui"


def override(prompt: dict, class_type: str, name: str, value) -> None:
    for node in prompt.values():
        if node["class_type"] == class_type:
            node["inputs"][name] = value


def number(name: str) -> int | None:
    """The environment variable as a whole number, None if unset or empty."""
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        sys.exit(f"{name} must be a whole number, not {text!r}.")


def draw(client: comfyui.Client, prompt: dict) -> tuple[str, dict[str, float]]:
    """Runs the prompt under a progress bar: (its id, seconds per node in running order)."""
    prompt_id = client.queue(prompt)
    seconds, running, since = {}, None, time.monotonic()
    with tqdm(total=len(prompt), unit="node", bar_format="{desc:32}{bar} {n_fmt}/{total_fmt}") as bar:
        for kind, data in client.events(prompt_id):
            if kind == "executing":
                now = time.monotonic()
                if running:
                    seconds[prompt[running]["class_type"]] = now - since
                    bar.update()
                running, since = data["node"], now
                bar.set_description_str(prompt[running]["class_type"] if running else "")
            elif kind == "progress":
                bar.set_description_str(f"{prompt[data['node']]['class_type']} {data['value']}/{data['max']}")
        bar.update(bar.total - bar.n)
    if running:
        seconds[prompt[running]["class_type"]] = time.monotonic() - since
    return prompt_id, seconds


def main() -> None:
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    if os.environ.get("PROMPT"):
        override(prompt, "CLIPTextEncode", "text", os.environ["PROMPT"])
    for name, key in (("STEPS", "steps"), ("SEED", "seed")):
        if (value := number(name)) is not None:
            override(prompt, "VegaLCMSampler", key, value)
    began = time.monotonic()
    try:
        with comfyui.serve(BASE) as server, server.connect() as client:
            started = time.monotonic()
            prompt_id, seconds = draw(client, prompt)
            file = comfyui.images(client.outputs(prompt_id))[0]
            picture = host.ROOT / "output" / file["filename"]
            picture.parent.mkdir(exist_ok=True)
            picture.write_bytes(client.download(file))
    except (comfyui.PromptError, RuntimeError) as error:
        sys.exit(f"No picture: {error}")
    print(f"{'server start':24}{started - began:8.2f} s")
    for name, duration in seconds.items():
        print(f"{name:24}{duration:8.2f} s")
    print(picture)


if __name__ == "__main__":
    main()
