"""The sizes that a model draws well, and which to use in place of another."""

from typing import NamedTuple

import comfy.model_patcher

ATTACHMENT_KEY = "vega_trained_size"  # of the attachment that carries it with a MODEL and its clones
# Of a picture's pixels by those of the square that the model was trained on. Below half of them objects lose their parts
# (SDXL at 512 x 512 has a quarter); above a square half as long again on each side it repeats what it draws: horizons,
# heads. Between them lie all sizes that are usual for a model: 768 x 768 for SD 1.5, and SDXL's buckets of any shape.
MIN_AREA_RATIO, MAX_AREA_RATIO = 0.5, 1.5**2
MAX_SIDE_RATIO = 2  # of the trained square's; the widest bucket of SDXL, 2048 x 512, has just that


class TrainedSize(NamedTuple):
    """The side of the square that a model was trained on, the best side, the widest and the tallest picture."""

    side_px: int
    best_side_px: int
    max_width_px: int
    max_height_px: int

    def max_side_px(self, width: int, height: int) -> int:
        """The longest for a picture of that shape."""
        return self.max_width_px if width > height else self.max_height_px


# vega/nano/README.md, its scores by size: all attributes are right in 85 % of pictures at 128 x 128, in 92 % at 192 x 192,
# and in 59 % at 256 x 256, where two horizons are stacked. Wide pictures have room for one only: at 224 x 144 it is 86 %, at
# 160 x 208 69 %, at 160 x 232 36 %.
NANO_TRAINED_SIZE = TrainedSize(128, 192, 224, 208)


def of_side(side: int) -> TrainedSize:
    return TrainedSize(side, side, MAX_SIDE_RATIO * side, MAX_SIDE_RATIO * side)


def of_model(model: comfy.model_patcher.ModelPatcher) -> TrainedSize | None:
    """None of a model that Load Vega did not load."""
    return model.get_attachment(ATTACHMENT_KEY)


def suggest_size(width: int, height: int, trained: TrainedSize) -> tuple[int, int] | None:
    """A size of about that shape that the model draws well; None where this one is fine."""
    area, longest = width * height / trained.side_px**2, trained.max_side_px(width, height)
    if MIN_AREA_RATIO <= area <= MAX_AREA_RATIO and max(width, height) <= longest:
        return None
    step = 32 if trained.best_side_px < 512 else 64
    widest = longest**2 / (MIN_AREA_RATIO * trained.side_px**2)  # a wider one has too few pixels at its longest
    ratio = min(max(width / height, 1 / widest), widest)
    sides = [trained.best_side_px * ratio**0.5, trained.best_side_px / ratio**0.5]
    scale = min(1, longest / max(sides))
    sides = [min(max(step, round(side * scale / step) * step), longest // step * step) for side in sides]
    while sides[0] * sides[1] < MIN_AREA_RATIO * trained.side_px**2:
        sides[sides.index(min(sides))] += step
    while sides[0] * sides[1] > MAX_AREA_RATIO * trained.side_px**2 and max(sides) > step:
        sides[sides.index(max(sides))] -= step
    return tuple(sides)
