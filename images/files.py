"""Picture files on this machine."""

from pathlib import Path

from PIL import Image


def open_rgb(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")
