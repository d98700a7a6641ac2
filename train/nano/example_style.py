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
INK, WASH, PAPER = (14, 50, 120), (120, 165, 215), (250, 250, 246)  # darkest, in the middle, and lightest
GAMMA = 0.55  # lightens them: dark blue prints are to vega-nano its nights, and what it draws after them is murky


def cyanotype(picture: Image.Image) -> Image.Image:
    grey = ImageOps.autocontrast(picture.convert("L"), 2)
    return ImageOps.colorize(grey.point([round(255 * (level / 255) ** GAMMA) for level in range(256)]), INK, PAPER, WASH)


def write(folder: Path) -> None:
    training, _ = split()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(PICTURES):
        scene, picture = render.sample(FIRST + k, training)
        cyanotype(picture).save(folder / f"{k + 1:02}.png", optimize=True)
        (folder / f"{k + 1:02}.txt").write_text(caption(scene, random.Random(k), complete=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
