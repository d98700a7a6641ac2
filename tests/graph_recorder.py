"""Accelerate (Vega) with a stand-in for CUDA graphs, which a CPU doesn't have."""

import copy
from pathlib import Path

import torch
from vega_pack.vega import accelerate, checkpoint, lcm

NANO_DIR = Path(checkpoint.NANO_DIR)
LORA = checkpoint.NANO_LORA


class Recorder:
    """Counts recordings and replays; a replay answers with the weights as they were at the recording."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.broken = None

    def __call__(self, run, *inputs, share_pool_with=None):
        if self.broken:
            raise self.broken
        self.recorded += 1
        unet, *_ = run.args
        frozen = copy.deepcopy(unet)

        def replay(*inputs):
            self.replayed += 1
            return run.func(frozen, *inputs)

        return replay


def draw(model, positive, seed=5, steps=3, batch=1, height=8, width=8, **latent):
    latent = {"samples": torch.zeros(batch, 4, height, width), **latent}
    return lcm.sample(model, seed, steps, positive, latent, 1.0, disable_progress=True)["samples"]


def graphed(model, recorder):
    return accelerate.apply(model, "cuda graph", recorder)
