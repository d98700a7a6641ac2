"""The loss of every step as a picture."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import atomic_write

WIDTH_PIXELS, HEIGHT_PIXELS, MARGIN_PIXELS = 800, 400, 60
SMOOTHED_SHARE = 0.05  # of the steps, whose mean is a point of the dark line
PALE, DARK, AXIS = (190, 205, 235), (30, 70, 160), (90, 90, 90)


def points(losses: np.ndarray, least: float, most: float) -> list[tuple[float, float]]:
    """Where each loss is in the picture."""
    x = MARGIN_PIXELS + (WIDTH_PIXELS - 1.5 * MARGIN_PIXELS) * np.arange(len(losses)) / max(1, len(losses) - 1)
    y = HEIGHT_PIXELS - MARGIN_PIXELS - (HEIGHT_PIXELS - 1.5 * MARGIN_PIXELS) * (losses - least) / max(1e-12, most - least)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def smoothed(losses: np.ndarray) -> np.ndarray:
    """The mean of each loss and those before it, over SMOOTHED_SHARE of the steps."""
    window = max(1, round(SMOOTHED_SHARE * len(losses)))
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def write(file: Path, losses: list[float]) -> None:
    values = np.asarray(losses, float)
    least, most = float(values.min()), float(np.quantile(values, 0.99))
    image = Image.new("RGB", (WIDTH_PIXELS, HEIGHT_PIXELS), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    draw.line(points(values.clip(least, most), least, most), PALE)
    draw.line(points(smoothed(values).clip(least, most), least, most), DARK, 2)
    draw.text((MARGIN_PIXELS - 6, MARGIN_PIXELS / 2), f"{most:.3g}", AXIS, font, anchor="rm")
    draw.text((MARGIN_PIXELS - 6, HEIGHT_PIXELS - MARGIN_PIXELS), f"{least:.3g}", AXIS, font, anchor="rm")
    below = HEIGHT_PIXELS - MARGIN_PIXELS / 2
    draw.text((MARGIN_PIXELS, below), "0", AXIS, font, anchor="mm")
    draw.text((WIDTH_PIXELS - MARGIN_PIXELS / 2, below), f"{len(losses)} steps", AXIS, font, anchor="rm")
    draw.text((WIDTH_PIXELS / 2, MARGIN_PIXELS / 4), "loss of each step, and its mean", AXIS, font, anchor="mm")
    with atomic_write(file) as partial:
        image.save(partial, "PNG")
