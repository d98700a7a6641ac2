"""DDIM trajectories of a guided teacher, from noised latents down to clean ones, and files of them.

They are cached on disk, so that each point can be learned from more than once: computing a trajectory takes half as
long as learning from it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .diffusion import NUM_TRAIN_TIMESTEPS, Diffusion, stratified_uniform
from .files import atomic_write
from .guidance import Text, guided_noise, rows_of

DDIM_STEP_TIMESTEPS = 100
PURE_NOISE_FRACTION = 0.5  # of the trajectories; sampling always begins at pure noise
LAST_TIMESTEP = NUM_TRAIN_TIMESTEPS - 1


def start_timesteps(count: int) -> torch.Tensor:
    """[count] timesteps to start trajectories at; mostly late ones, as every trajectory passes the early ones."""
    pure = int(count * PURE_NOISE_FRACTION)
    uniform = stratified_uniform(count - pure)
    return torch.cat(
        [torch.full((pure,), LAST_TIMESTEP), (NUM_TRAIN_TIMESTEPS * uniform**0.5).long().clamp(1, LAST_TIMESTEP)]
    )


def first_strides(count: int) -> torch.Tensor:
    """[count] lengths of a first step, with which trajectories that all start at the last timestep pass every other one."""
    return 1 + (DDIM_STEP_TIMESTEPS * stratified_uniform(count)).long()


def ddim_trajectories(
    teacher: Callable,
    diffusion: Diffusion,
    clean: torch.Tensor,
    t: torch.Tensor,
    strides: torch.Tensor | int = DDIM_STEP_TIMESTEPS,
) -> dict[str, torch.Tensor]:
    """Denoises clean latents [B, 4, h, w], noised to timesteps t [B], down to t = 0; strides [B] are of the first step.

    teacher(x, t, image) predicts the noise in x, which belongs to the images `image` of the B. Returns the points x
    [N, 4, h, w], their t [N], the image of each [N] (under "picture"), and the clean latents [B, 4, h, w] in which the
    trajectories end. Each step is DDIM's (Song et al. 2020, arXiv 2010.02502, eq. 12).
    """
    noise = torch.randn(clean.shape).to(clean)
    x = torch.where((t == LAST_TIMESTEP)[:, None, None, None], noise, diffusion.add_noise(clean, noise, t))
    active, ends, points = torch.arange(len(clean), device=clean.device), torch.empty_like(clean), []
    while len(active):
        points.append((x, t, active))
        epsilon = teacher(x, t, active)
        original, next_t = diffusion.pred_original_sample(x, epsilon, t), (t - strides).clamp(min=0)
        x, finished = diffusion.add_noise(original, epsilon, next_t), next_t == 0
        ends[active[finished]] = original[finished]
        x, t, active = x[~finished], next_t[~finished], active[~finished]
        strides = DDIM_STEP_TIMESTEPS
    x, t, image = (torch.cat(part) for part in zip(*points, strict=True))
    return {"x": x, "t": t, "picture": image, "end": ends}


def guided_trajectories(
    unet,
    diffusion: Diffusion,
    clean: torch.Tensor,
    t: torch.Tensor,
    text: Text,
    unconditional: Text,
    time_ids: torch.Tensor,
    w: torch.Tensor,
    strides: torch.Tensor | int = DDIM_STEP_TIMESTEPS,
) -> dict[str, torch.Tensor]:
    """Those of a UNet with classifier-free guidance; all others are of each image [B]."""

    def teacher(x, t, image):
        return guided_noise(unet, x, t, rows_of(text, image), rows_of(unconditional, image), time_ids[image], w[image])

    return ddim_trajectories(teacher, diffusion, clean, t, strides)


def write(file: Path, seed: int, compute: Callable[[], dict[str, torch.Tensor]]) -> None:
    """The file, with what compute() returns under this seed, unless it exists."""
    if not file.exists():
        with atomic_write(file) as partial, torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            save_file(compute(), partial)


def read(file: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """A broken file ends the run with a sentence."""
    try:
        return {name: tensor.to(device) for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        sys.exit(f"{file} is broken ({error}): delete it and give the same command again, which makes it anew and goes on")
