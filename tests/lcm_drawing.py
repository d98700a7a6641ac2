"""Latents drawn with the LCM sampler of the pack, without a progress bar."""

from pathlib import Path

import torch
from vega_pack.vega import checkpoint, lcm

NANO_DIR = Path(checkpoint.NANO_DIR)


def empty(batch=1, height=16, width=16, **keys):
    return {"samples": torch.zeros(batch, 4, height, width), **keys}


def draw(model, positive, latent, seed=5, steps=4, denoise=1.0):
    return lcm.sample(model, seed, steps, positive, latent, denoise, disable_progress=True)["samples"]
