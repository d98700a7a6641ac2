"""Training pictures of vega-nano in a folder, with a caption beside each, to train it with `python -m train`.

`python -m train.nano.picture_folder FOLDER` writes them. Captions have mistakes, as those of the base's second training.
"""

import argparse
import random
from pathlib import Path

from ..options import at_least
from . import render
from .captions import caption, corrupt
from .scenes import split

PICTURES = 2000
# (width, height) in pixels, large enough for --resolution 320; every second one is square, as what most people draw is.
SQUARE, WIDE_SHAPES = (352, 352), ((400, 304), (456, 272), (496, 248), (560, 224))
SHAPES = [shape for width, height in WIDE_SHAPES for shape in (SQUARE, (width, height), SQUARE, (height, width))]


def write(folder: Path, count: int) -> None:
    """The first `count` pictures, {number}.png and {number}.txt."""
    scenes, _ = split()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        words = random.Random(k)
        scene, picture = render.sample(k, scenes, *SHAPES[k % len(SHAPES)])
        picture.save(folder / f"{k:05}.png", compress_level=1)
        (folder / f"{k:05}.txt").write_text(caption(corrupt(scene, words), words), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m train.nano.picture_folder", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=at_least(1), default=PICTURES)
    options = parser.parse_args()
    write(options.folder, options.pictures)
