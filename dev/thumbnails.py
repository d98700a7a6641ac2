"""Draws each shipped workflow's thumbnail with the workflow itself, through the real server."""

import io
import json

import comfyui
import host
from PIL import Image

SCALE = 2  # vega-nano's pictures are smaller than what the template browser shows


def main() -> None:
    with comfyui.serve(host.ROOT / ".comfyui") as server, server.connect() as client:
        for api in sorted((host.ROOT / "workflows" / "api").glob("*.json")):
            picture = draw(client, json.loads(api.read_text(encoding="utf-8")))
            size = (SCALE * picture.width, SCALE * picture.height)
            thumbnail = host.ROOT / "workflows" / f"{api.stem}.jpg"
            picture.resize(size, Image.Resampling.LANCZOS).save(thumbnail, quality=92)
            print(thumbnail)


def draw(client: comfyui.Client, prompt: dict) -> Image.Image:
    """The first picture that the prompt saves."""
    file = comfyui.images(client.run(prompt))[0]
    return Image.open(io.BytesIO(client.download(file))).convert("RGB")


if __name__ == "__main__":
    main()
