"""Which timesteps a run learns: each as often as the others, or some more often.

The bias is that of diffusers' train_text_to_image_sdxl.py, its strategies earlier and later, without range.
"""

from argparse import Namespace

import torch

from .diffusion import NUM_TRAIN_TIMESTEPS
from .options import TIMESTEP_BIAS_MULTIPLIER, TIMESTEP_BIAS_PORTION

MAX_MULTIPLIER = 1000


def check(options: Namespace) -> None:
    """ValueError for a bias that would change nothing, or leave nothing but a few timesteps."""
    strategy, multiplier = options.timestep_bias_strategy, options.timestep_bias_multiplier
    portion = options.timestep_bias_portion
    if strategy == "none" and (multiplier, portion) != (TIMESTEP_BIAS_MULTIPLIER, TIMESTEP_BIAS_PORTION):
        raise ValueError(
            "--timestep-bias-multiplier and --timestep-bias-portion need a --timestep-bias-strategy: give earlier or later."
        )
    if strategy != "none" and (multiplier == 1 or not 1 / MAX_MULTIPLIER <= multiplier <= MAX_MULTIPLIER):
        raise ValueError(
            f"--timestep-bias-strategy {strategy} needs a --timestep-bias-multiplier from {1 / MAX_MULTIPLIER:g} to "
            f"{MAX_MULTIPLIER} that is not 1: 4, for example."
        )
    if strategy != "none" and not 0 < biased_count(options) < NUM_TRAIN_TIMESTEPS:
        raise ValueError(f"--timestep-bias-portion {portion:g}: give a share between 0 and 1, such as 0.25.")


def biased_count(options: Namespace) -> int:
    return int(options.timestep_bias_portion * NUM_TRAIN_TIMESTEPS)


def timestep_weights(options: Namespace) -> torch.Tensor | None:
    """[1000] probabilities, those of the last (later, of most noise) or first ones multiplied; None where all are alike."""
    strategy = getattr(options, "timestep_bias_strategy", "none")  # which runs of other objectives lack
    if strategy == "none":
        return None
    weights, count = torch.ones(NUM_TRAIN_TIMESTEPS), biased_count(options)
    biased = slice(count) if strategy == "earlier" else slice(NUM_TRAIN_TIMESTEPS - count, None)
    weights[biased] *= options.timestep_bias_multiplier
    return weights / weights.sum()


def sample_timestep(weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """One timestep [], as likely as timestep_weights() has it, or as all others."""
    if weights is None:
        return torch.randint(0, NUM_TRAIN_TIMESTEPS, (), generator=generator)
    return torch.multinomial(weights, 1, generator=generator)[0]
