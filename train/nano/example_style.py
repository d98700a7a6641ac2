"""The example pictures to train on, in input/vega_example_style: landscapes as cyanotypes, blue prints, with their captions.

`python -m train.nano.example_style` draws them anew.
"""

import random
from pathlib import Path

from PIL import Image, ImageOps

from . import render
from .captions import caption
from .scenes import split

FOLDER = Path(__file__).resolve().parents[2] / "input" / "vega_example_style"
PICTURES = 12
FIRST = 70_000  # in the endless data set
INK, PAPER = (14, 40, 108), (246, 248, 242)  # darkest and lightest


def cyanotype(picture: Image.Image) -> Image.Image:
    return ImageOps.colorize(ImageOps.autocontrast(picture.convert("L"), 1), INK, PAPER)


def write(folder: Path) -> None:
    training, _ = split()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(PICTURES):
        scene, picture = render.sample(FIRST + k, training)
        cyanotype(picture).save(folder / f"{k + 1:02}.png", optimize=True)
        (folder / f"{k + 1:02}.txt").write_text(caption(scene, random.Random(k), complete=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
