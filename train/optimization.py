"""The optimizers and their learning rate."""

from collections.abc import Callable

import numpy as np
import torch
from transformers.optimization import Adafactor

# Bytes of a parameter that learns in fp32: itself, its gradient, its moving average, and AdamW's two moments.
WEIGHT_BYTES, GRADIENT_BYTES, AVERAGE_BYTES, MOMENTS_BYTES = 4, 4, 4, 8
WEIGHTS_MEMORY_FRACTION = 0.8  # of a GPU's memory; the rest is for activations


def make_optimizer(groups: list[dict], use_8bit_adam: bool = False, use_adafactor: bool = False) -> torch.optim.Optimizer:
    """AdamW, that of bitsandbytes, which keeps its moments in 8 bits, or Adafactor, which keeps next to none.

    Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with the learning rate that it is given, as kohya's scripts have it.
    """
    if use_adafactor:
        return Adafactor(groups, scale_parameter=False, relative_step=False, warmup_init=False)
    return (adamw_8bit() if use_8bit_adam else torch.optim.AdamW)(groups)


def optimizer_state_fits(parameters: int, averaged: bool, other_bytes: int, memory_bytes: int) -> bool:
    """Whether AdamW's moments of so many parameters fit into a GPU, with all that is there besides activations."""
    each = WEIGHT_BYTES + GRADIENT_BYTES + MOMENTS_BYTES + averaged * AVERAGE_BYTES
    return parameters * each + other_bytes <= WEIGHTS_MEMORY_FRACTION * memory_bytes


def adamw_8bit() -> type[torch.optim.Optimizer]:
    """ValueError where bitsandbytes is not installed."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError("--use-8bit-adam needs bitsandbytes: pip install bitsandbytes, or leave it out.") from error
    return bitsandbytes.optim.AdamW8bit


def schedule(name: str, steps: int, warmup_steps: int = 0) -> Callable[[int], float]:
    """Step -> factor of the learning rate, as diffusers' schedulers of these names give it, which begin at 0 in warm-up."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        done = (step - warmup_steps) / max(1, steps - warmup_steps)
        return {"constant": 1.0, "cosine": 0.5 + 0.5 * float(np.cos(np.pi * done)), "linear": 1 - done}[name]

    return factor
