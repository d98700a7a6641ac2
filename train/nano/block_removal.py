"""Block-removal distillation, as SSD-1B and Vega were made: train a larger UNet, remove blocks, distil the rest.

Kim et al. 2023, "BK-SDM" (arXiv 2305.15798); Gupta et al. 2024, "Progressive Knowledge Distillation of Stable Diffusion
XL Using Layer Level Loss" (arXiv 2401.02677). The larger UNet here has more transformer blocks and attention in its
middle, as SDXL has beside Vega, and is initialised from the base, so that its training starts where the base's ended.
"""

from pathlib import Path

import torch
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel

from ..diffusion import load_unet
from ..distillation import compare
from ..training_loop import constant_then_cosine
from . import seeds
from .base_unet import BatchBuilder, build, train_unet
from .latents import LatentBatches

TEACHER_CONFIG = dict(transformer_layers_per_block=[1, 3, 3], mid_block_type="UNetMidBlock2DCrossAttn")
# The last projections of residual branches: with zero weights a branch adds nothing.
OUTPUT_PROJECTIONS = ("to_out.0", "ff.net.2", "proj_out", "conv2")
FEATURE_LOSS_WEIGHT = 0.5  # the task loss and the output loss count 1


def expand_with_zero_init(small: UNet2DConditionModel) -> UNet2DConditionModel:
    """The larger UNet that computes the same as `small`: the output projections of added blocks are zero."""
    large = build(**TEACHER_CONFIG)
    state, known = large.state_dict(), small.state_dict()
    for key in state:
        if key in known:
            state[key] = known[key]
        elif key.rpartition(".")[0].endswith(OUTPUT_PROJECTIONS):
            state[key] = torch.zeros_like(state[key])
    large.load_state_dict(state)
    return large


def prune_blocks(large: UNet2DConditionModel) -> UNet2DConditionModel:
    """`large` without the blocks that vega-nano does not have.

    Built with random weights first, so that a run draws the random numbers that it always drew.
    """
    small, state = build(), large.state_dict()
    small.load_state_dict({key: state[key] for key in small.state_dict()})
    return small


def block_names(unet: UNet2DConditionModel) -> list[str]:
    """The blocks whose outputs are compared."""
    down, up = (
        [f"{side}.{k}" for k in range(len(blocks))]
        for side, blocks in (("down_blocks", unet.down_blocks), ("up_blocks", unet.up_blocks))
    )
    return [*down, "mid_block", *up]


def train_teacher(work: Path, batches: LatentBatches, steps: int, seed: int = 2) -> list[float]:
    """Expands work/base and trains it into work/teacher; returns the loss of every step."""
    set_seed(seed)
    unet, make_batch = expand_with_zero_init(load_unet(work / "base")), BatchBuilder(work, batches)

    def compute_loss(step):
        return make_batch(seeds.CONTINUED_TRAINING + step, noisy_captions=True).loss(unet)

    return train_unet(unet, compute_loss, work, "teacher", make_batch, steps, constant_then_cosine(steps, constant=0.5))


def distil(work: Path, batches: LatentBatches, steps: int, seed: int = 3) -> list[float]:
    """Removes blocks of work/teacher and trains the rest into work/student; returns the loss of every step.

    The loss is the task loss plus the distances to the teacher's prediction and to the outputs of its blocks.
    """
    set_seed(seed)
    teacher, make_batch = load_unet(work / "teacher").requires_grad_(False), BatchBuilder(work, batches)
    student = prune_blocks(teacher)
    features = {name: name for name in block_names(student)}

    def compute_loss(step):
        batch = make_batch(2 * seeds.CONTINUED_TRAINING + step, noisy_captions=True)
        out, target, pairs = compare(student, teacher, features, batch.predict)
        feature_loss = sum((a - b).square().mean() / b.var() for a, b in pairs) / len(pairs)
        task_loss, output_loss = batch.weighted_mse(out, batch.noise), batch.weighted_mse(out, target)
        return task_loss + output_loss + FEATURE_LOSS_WEIGHT * feature_loss

    return train_unet(student, compute_loss, work, "student", make_batch, steps, constant_then_cosine(steps))
