"""Draws each shipped workflow's thumbnail with the workflow itself, through the real server."""

import io
import json

import comfyui
import host
from PIL import Image

SCALE = 2  # vega-nano's pictures are smaller than what the template browser shows
SIDE = 512  # and more than this it doesn't show


def main() -> None:
    with comfyui.serve(host.ROOT / ".comfyui") as server, server.connect() as client:
        for api in sorted((host.ROOT / "workflows" / "api").glob("*.json")):
            thumbnail = host.ROOT / "workflows" / f"{api.stem}.jpg"
            try:
                picture = draw(client, json.loads(api.read_text(encoding="utf-8")))
            except comfyui.PromptError as error:  # its models are not in .comfyui/models
                print(f"{thumbnail} stays as it is: {error}")
                continue
            scale = min(SCALE, SIDE / max(picture.size))
            size = (round(scale * picture.width), round(scale * picture.height))
            picture.resize(size, Image.Resampling.LANCZOS).save(thumbnail, quality=92)
            print(thumbnail)


def draw(client: comfyui.Client, prompt: dict) -> Image.Image:
    """The first picture that the prompt saves, or else sends."""
    outputs = client.run(prompt)
    saved = [client.download(file) for file in comfyui.images(outputs) if file["type"] == "output"]
    sent = [client.server.get(file["url"]).content for output in outputs.values() for file in output.get("sent", [])]
    return Image.open(io.BytesIO([*saved, *sent][0])).convert("RGB")


if __name__ == "__main__":
    main()
