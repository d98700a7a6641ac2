"""AdamW and its learning rate."""

from collections.abc import Callable

import numpy as np
import torch


def make_optimizer(groups: list[dict], use_8bit_adam: bool = False) -> torch.optim.Optimizer:
    """AdamW, or that of bitsandbytes, which keeps its moments in 8 bits."""
    return (adamw_8bit() if use_8bit_adam else torch.optim.AdamW)(groups)


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
