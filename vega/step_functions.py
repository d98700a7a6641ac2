"""From one noise level to the next: the step functions of diffusers' LCM, TCD, DDIM and Euler schedulers.

In the host's terms: x is the clean latent plus sigma times noise, which is diffusers' latent times sqrt(1 + sigma^2).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from .timestep_grids import NUM_TRAIN_TIMESTEPS


class StepSigmas(NamedTuple):
    """The noise levels (sigmas) of a step. target: where the predicted noise alone leads to, if the function has its own."""

    current: float
    next: float  # that the UNet is asked at next; 0 after the last step
    target: float


# (x [B, C, h, w], its predicted clean latent, sigmas, what draws noise of its shape) -> x for the next step.
StepFunction = Callable[[torch.Tensor, torch.Tensor, StepSigmas, Callable[[], torch.Tensor]], torch.Tensor]


def lcm(x: torch.Tensor, denoised: torch.Tensor, sigmas: StepSigmas, noise: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Luo et al. 2023 (arXiv 2310.04378): the clean latent with new noise."""
    return denoised + sigmas.next * noise() if sigmas.next > 0 else denoised


def tcd(x: torch.Tensor, denoised: torch.Tensor, sigmas: StepSigmas, noise: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Zheng et al. 2024 (arXiv 2402.19159): down to (1 - eta) times the next timestep, then up to it with new noise."""
    reached = renoise_to_target(x, denoised, sigmas)
    if sigmas.next == 0:
        return reached / (1 + sigmas.target**2) ** 0.5
    if sigmas.target < sigmas.next:  # not so at eta 0
        reached = reached + (sigmas.next**2 - sigmas.target**2) ** 0.5 * noise()
    return reached


def ddim(x: torch.Tensor, denoised: torch.Tensor, sigmas: StepSigmas, noise: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Song et al. 2021 (arXiv 2010.02502) without noise. As diffusers has it, the last step ends at timestep 0's level, and
    the target may be one timestep off the level that the UNet is asked at next.
    """
    return renoise_to_target(x, denoised, sigmas) * ((1 + sigmas.next**2) / (1 + sigmas.target**2)) ** 0.5


def euler(x: torch.Tensor, denoised: torch.Tensor, sigmas: StepSigmas, noise: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Karras et al. 2022 (arXiv 2206.00364), algorithm 2 without noise."""
    return x + (x - denoised) / sigmas.current * (sigmas.next - sigmas.current)


def renoise_to_target(x: torch.Tensor, denoised: torch.Tensor, sigmas: StepSigmas) -> torch.Tensor:
    """The clean latent with the predicted noise at the target's level."""
    return denoised + (x - denoised) / sigmas.current * sigmas.target


def plan_steps(
    step_function: StepFunction, eta: float | None, table: list[float], timesteps: list[int], steps: int
) -> list[StepSigmas]:
    """The levels of each step. table: the sigmas of evenly spaced timesteps; steps: of the whole grid, before img2img."""
    now = [sigma_at(table, t) for t in timesteps]
    following = [*now[1:], 0.0]
    targets = following
    if step_function is tcd:
        targets = [sigma_at(table, int((1 - eta) * t)) for t in (*timesteps[1:], 0)]
    elif step_function is ddim:
        targets = [sigma_at(table, max(t - NUM_TRAIN_TIMESTEPS // steps, 0)) for t in timesteps]
    return [StepSigmas(*of_step) for of_step in zip(now, following, targets, strict=True)]


def sigma_at(table: list[float], timestep: int) -> float:
    """The sigma of a timestep: a table of 50 entries has those of 19, 39, ... 999."""
    return table[(timestep + 1) * len(table) // NUM_TRAIN_TIMESTEPS - 1]
