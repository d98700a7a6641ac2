"""Which timesteps are learned, each as often as the others or some more often."""

import torch

from .diffusion import NUM_TRAIN_TIMESTEPS


def bias_weights(strategy: str, multiplier: float, portion: float) -> torch.Tensor | None:
    """[1000] probabilities: `multiplier` times as large for the last ("later", of most noise) or first portion; or None.

    As diffusers' train_text_to_image_sdxl.py has it.
    """
    if strategy == "none":
        return None
    weights = torch.ones(NUM_TRAIN_TIMESTEPS)
    count = int(portion * NUM_TRAIN_TIMESTEPS)
    biased = slice(count) if strategy == "earlier" else slice(NUM_TRAIN_TIMESTEPS - count, None)
    weights[biased] *= multiplier
    return weights / weights.sum()


def sample_timestep(weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """One timestep [], as likely as bias_weights() has it, or as all others."""
    if weights is None:
        return torch.randint(0, NUM_TRAIN_TIMESTEPS, (), generator=generator)
    return torch.multinomial(weights, 1, generator=generator)[0]
