"""How near two pictures are."""

import numpy as np


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Decibels, for values of 0 to 255 as floats; equal ones have 138."""
    return 10 * np.log10(255**2 / max(np.square(one - other).mean(), 1e-9))
