"""The way SSD-1B and Vega were made: train a larger UNet, remove blocks, and let what is left learn from the whole.

Kim et al. 2023, "BK-SDM" (arXiv 2305.15798); Gupta et al. 2024, "Progressive Knowledge Distillation of Stable Diffusion
XL Using Layer Level Loss" (arXiv 2401.02677). The larger UNet here has more transformer blocks and attention in its
middle, as SDXL has beside Vega, and grows out of the base, so that its training starts where the base's ended.
"""

from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel

from .fitting import flat_then_cosine
from .latents import Batches
from .text_to_image import SEEN, Examiner, build, fit_unet, load

LARGER = dict(transformer_layers_per_block=[1, 3, 3], mid_block_type="UNetMidBlock2DCrossAttn")
# Projections with which a block adds to what passes it by.
OUTPUTS = ("to_out.0", "ff.net.2", "proj_out", "conv2")
FEATURES = 0.5  # weight of the features' loss; the noise and the teacher's answer count 1


def grown(small: UNet2DConditionModel) -> UNet2DConditionModel:
    """The larger UNet that computes the same as `small`: whatever `small` lacks adds nothing yet."""
    large = build(**LARGER)
    state = large.state_dict()
    for key in state:
        if key in small.state_dict():
            state[key] = small.state_dict()[key]
        elif key.rpartition(".")[0].endswith(OUTPUTS):
            state[key] = torch.zeros_like(state[key])
    large.load_state_dict(state)
    return large


def shrunk(large: UNet2DConditionModel) -> UNet2DConditionModel:
    """`large` without the blocks that vega-nano does not have."""
    small = build()
    small.load_state_dict({key: large.state_dict()[key] for key in small.state_dict()})
    return small


@contextmanager
def features(unet: UNet2DConditionModel):
    """Gives a list that each forward pass within it appends its blocks' outputs to."""
    found = []

    def keep(module, inputs, output):
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [b.register_forward_hook(keep) for b in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
    yield found
    for handle in handles:
        handle.remove()


def train_teacher(work: Path, batches: Batches, steps: int, seed: int = 2) -> list[float]:
    """Grows work/base and trains it into work/teacher; returns the loss of every step."""
    set_seed(seed)
    unet, ask = grown(load(work / "base")), Examiner(work, batches)

    def loss_of(step):
        return ask(SEEN + step, careless=True).loss(unet)

    return fit_unet(unet, loss_of, work, "teacher", ask, steps, flat_then_cosine(steps, flat=0.5))


def distil(work: Path, batches: Batches, steps: int, seed: int = 3) -> list[float]:
    """Removes blocks of work/teacher and trains the rest into work/student; returns the loss of every step.

    The loss is that of training plus the distances to the teacher's answer and to the features of its blocks.
    """
    set_seed(seed)
    teacher, ask = load(work / "teacher").requires_grad_(False), Examiner(work, batches)
    unet = shrunk(teacher)

    def loss_of(step):
        question = ask(2 * SEEN + step, careless=True)
        with torch.no_grad(), features(teacher) as theirs:
            answer = question.put_to(teacher)
        with features(unet) as ours:
            out = question.put_to(unet)
        alike = sum((a - b).square().mean() / b.var() for a, b in zip(ours, theirs, strict=True)) / len(theirs)
        return question.error(out, question.noise) + question.error(out, answer) + FEATURES * alike

    return fit_unet(unet, loss_of, work, "student", ask, steps, flat_then_cosine(steps))
