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
    """The side of the square that a model draws best, and what it draws well: areas in pixels, and sides.

    A least side of 0 is one that the least area decides.
    """

    side_px: int
    min_area_px: int
    max_area_px: int
    min_side_px: int
    max_side_px: int


# vega/nano/README.md, its scores by size.
NANO_TRAINED_SIZE = TrainedSize(256, 128**2, 320**2, 128, 320)


def of_side(side: int) -> TrainedSize:
    return TrainedSize(side, int(MIN_AREA_RATIO * side**2), int(MAX_AREA_RATIO * side**2), 0, MAX_SIDE_RATIO * side)


def of_model(model: comfy.model_patcher.ModelPatcher) -> TrainedSize | None:
    """None of a model that Load Vega did not load."""
    return model.get_attachment(ATTACHMENT_KEY)


def suggest_size(width: int, height: int, trained: TrainedSize) -> tuple[int, int] | None:
    """A size of about that shape that the model draws well; None where this one is fine."""
    best, smallest, largest, shortest, longest = trained
    if smallest <= width * height <= largest and shortest <= min(width, height) and max(width, height) <= longest:
        return None
    step = 32 if best < 512 else 64
    widest = longest / max(shortest, smallest / longest)  # a wider one has too few pixels at its longest
    ratio = min(max(width / height, 1 / widest), widest)
    sides = [best * ratio**0.5, best / ratio**0.5]
    scale = min(1, longest / max(sides))
    sides = [min(max(step, shortest, round(side * scale / step) * step), longest // step * step) for side in sides]
    while sides[0] * sides[1] < smallest:
        sides[sides.index(min(sides))] += step
    while sides[0] * sides[1] > largest and max(sides) > step:
        sides[sides.index(max(sides))] -= step
    return tuple(sides)
