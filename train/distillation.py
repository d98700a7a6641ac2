"""Block-removal knowledge distillation: the student's losses against its teacher.

Kim et al. 2023, "BK-SDM: A Lightweight, Fast, and Cheap Version of Stable Diffusion" (arXiv 2305.15798), with the weights
and the pairs of blocks of segmind/distill-sd, which made small-sd and tiny-sd.
"""

from collections.abc import Callable, Iterable
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import nn

from .denoising import Batch
from .diffusion import predict_noise


@contextmanager
def capture_features(unet: nn.Module, names: Iterable[str]):
    """Gives name -> output of that module in the last pass within it; of several outputs the first."""
    outputs = {}

    def hook(name: str) -> Callable:
        def keep(module, inputs, output) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [unet.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def compare(
    student: nn.Module, teacher: nn.Module, features: dict[str, str], predict: Callable[[nn.Module], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """(the student's prediction, the teacher's, the pairs of their features); no gradient goes to the teacher."""
    with torch.no_grad(), capture_features(teacher, features.values()) as expected:
        target = predict(teacher)
    with capture_features(student, features) as found:
        out = predict(student)
    return out, target, [(found[name], expected[there]) for name, there in features.items()]


def distillation_loss(
    student: nn.Module,
    teacher: nn.Module,
    features: dict[str, str],
    scheduler: DDPMScheduler,
    batch: Batch,
    output_weight: float,
    feature_weight: float,
) -> torch.Tensor:
    """The student's error in the noise, its distance to the teacher's prediction and, summed over features, to theirs.

    Each is a mean of squares, in the precision of the batch's noise.
    """
    noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)

    def predict(unet: nn.Module) -> torch.Tensor:
        return predict_noise(unet, noisy, batch.timesteps, batch.text, batch.time_ids).to(batch.noise.dtype)

    compared = features if feature_weight else {}
    out, target, pairs = compare(student, teacher, compared, predict)
    loss = F.mse_loss(out, batch.noise) + output_weight * F.mse_loss(out, target)
    for found, expected in pairs:
        loss = loss + feature_weight * F.mse_loss(found.to(batch.noise.dtype), expected.to(batch.noise.dtype))
    return loss
