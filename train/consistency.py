"""The objectives of an LCM-LoRA: latent consistency distillation, and regression of the ends of trajectories.

Luo et al. 2023, "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module" (arXiv 2311.05556), after "Latent
Consistency Models" (arXiv 2310.04378). Teacher and student are one UNet, with its adapter off and on.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from .adapters import disable_adapters
from .denoising import Batch
from .diffusion import NUM_TRAIN_TIMESTEPS, Diffusion, predict_noise
from .guidance import Text, guided_noise

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
HUBER_C = 0.001
SOLVER_STEPS = 50
SOLVER_STRIDE = NUM_TRAIN_TIMESTEPS // SOLVER_STEPS


def boundary_scalings(t: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """c_skip and c_out of the consistency function: the identity at t = 0."""
    t = t.to(dtype) * TIMESTEP_SCALING
    return SIGMA_DATA**2 / (t**2 + SIGMA_DATA**2), t / (t**2 + SIGMA_DATA**2) ** 0.5


def pseudo_huber(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((out - target).square() + HUBER_C**2).sqrt().sub(HUBER_C).mean()


LOSSES: dict[str, Callable] = {"huber": pseudo_huber, "l2": F.mse_loss}


def solver_steps(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(where a step of the solver begins, where it ends) for timesteps in 0..999 [B], twenty of which share a step.

    The solver is DDIM in 50 steps with trailing timesteps: 999, 979 ... 19, and from 19 to 0.
    """
    start = timesteps // SOLVER_STRIDE * SOLVER_STRIDE + SOLVER_STRIDE - 1
    return start, (start - SOLVER_STRIDE).clamp(min=0)


def predict_clean(
    unet, diffusion: Diffusion, x: torch.Tensor, t: torch.Tensor, text: Text, time_ids: torch.Tensor
) -> torch.Tensor:
    """The consistency function: the clean latents [B, 4, h, w] that the student sees in x at timesteps t [B]."""
    epsilon = predict_noise(unet, x, t, text, time_ids).to(x.dtype)
    c_skip, c_out = (c[:, None, None, None] for c in boundary_scalings(t, x.dtype))
    return c_skip * x + c_out * diffusion.pred_original_sample(x, epsilon, t)


def consistency_loss(
    unet, diffusion: Diffusion, batch: Batch, unconditional: Text, w: torch.Tensor, loss: Callable = pseudo_huber
) -> torch.Tensor:
    """The student must see in noised latents what it sees after one step of the teacher, which is guided by w [B].

    The teacher's step is DDIM's (Song et al. 2020, arXiv 2010.02502, eq. 12). As in diffusers' scripts for LoRAs the
    target comes from the student itself, and not from a moving average of it.
    """
    t, next_t = solver_steps(batch.timesteps)
    x = diffusion.add_noise(batch.latents, batch.noise, t)
    with torch.no_grad():
        with disable_adapters(unet):
            epsilon = guided_noise(unet, x, t, batch.text, unconditional, batch.time_ids, w)
        next_x = diffusion.add_noise(diffusion.pred_original_sample(x, epsilon, t), epsilon, next_t)
        target = predict_clean(unet, diffusion, next_x, next_t, batch.text, batch.time_ids)
    return loss(predict_clean(unet, diffusion, x, t, batch.text, batch.time_ids), target)


def regression_loss(
    unet,
    diffusion: Diffusion,
    x: torch.Tensor,
    t: torch.Tensor,
    end: torch.Tensor,
    text: Text,
    time_ids: torch.Tensor,
    loss: Callable = pseudo_huber,
) -> torch.Tensor:
    """The student must see in each point x of a trajectory, at timesteps t [B], the latents in which it ends.

    At t = 0 the boundary condition makes its prediction the latents themselves: so it learns from the teacher alone, and
    its own errors do not accumulate. (On vega-nano 2400 training steps came to a Frechet distance of 24.3 this way, 4800
    with trajectories of three DDIM steps to 32.2.)
    """
    return loss(predict_clean(unet, diffusion, x, t, text, time_ids), end)
