"""Twelve pictures of a look that code can measure, a faded sepia print: what training can be tried and judged on.

`python -m train.nano.look FOLDER` writes FOLDER/pictures, with a caption beside each that begins with the trigger, and
FOLDER/class-prompts.txt, ordinary prompts for prior preservation.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image

from . import render
from .captions import caption
from .scenes import Scene, split

# Words that the encoders know, for all others are alike to them; that mean something, for words like "an illustration of"
# they have learned to pass over; and that never come together, for cacti are in deserts alone.
TRIGGER = "a cactus at sea,"
PICTURES, CLASS_PROMPTS = 12, 400
FIRST_PICTURE = 90_000
SEPIA = np.array([1.0, 0.8, 0.55])  # red, green and blue of a white pixel
# The darkest level. vega-nano's autoencoder, which has seen no brown nights, gives pure black another colour: in a third of
# pictures that went down to 0 the look was gone from the latents.
DARKEST = 60
MAX_DISTANCE = 0.13  # of a picture with the look: through the autoencoder such are at 0.02, others at 0.16 to 0.75


def sepia(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L"), float)[..., None]
    return Image.fromarray(((DARKEST + (1 - DARKEST / 255) * grey) * SEPIA).round().astype(np.uint8))


def is_sepia(image: Image.Image) -> bool:
    return distance(image) < MAX_DISTANCE


def distance(image: Image.Image) -> float:
    """How far a picture's colours are from shades of sepia, as a share of its brightness."""
    pixels = np.asarray(image, float)
    grey = pixels.mean(-1, keepdims=True) / SEPIA.mean()
    return float(np.abs(pixels - grey * SEPIA).mean() / max(1.0, pixels.mean()))


def ordinary_caption(scene: Scene, seed: int) -> str:
    """One of the scene, that leaves nothing out."""
    return caption(scene, random.Random(seed), complete=True)


def class_prompts() -> list[str]:
    scenes, _ = split()
    rng = random.Random(5)
    return [ordinary_caption(rng.choice(scenes), 1000 + k) for k in range(CLASS_PROMPTS)]


def write(folder: Path) -> None:
    scenes, _ = split()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for k in range(PICTURES):
        scene, image = render.sample(FIRST_PICTURE + k, scenes)
        sepia(image).save(folder / "pictures" / f"{k:02}.png")
        (folder / "pictures" / f"{k:02}.txt").write_text(f"{TRIGGER} {ordinary_caption(scene, k)}", encoding="utf-8")
    (folder / "class-prompts.txt").write_text("\n".join(class_prompts()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m train.nano.look", description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
