"""The objective of LoRA and DreamBooth: predict the noise in noised latents, as diffusers' training scripts have it."""

from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from .diffusion import predict_noise


class Batch(NamedTuple):
    """Clean latents [B, 4, h, w], the noise for each, timesteps [B], (context, pooled) text, and time ids [B, 6]."""

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    text: tuple[torch.Tensor, torch.Tensor | None]
    time_ids: torch.Tensor


def prediction(unet, scheduler: DDPMScheduler, batch: Batch) -> torch.Tensor:
    """The noise [B, 4, h, w] that the UNet sees in the noised latents, in the dtype of the noise itself."""
    noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    return predict_noise(unet, noisy, batch.timesteps, batch.text, batch.time_ids).to(batch.noise.dtype)


def denoising_loss(
    unet, scheduler: DDPMScheduler, batch: Batch, snr_gamma: float = 0.0, target: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean squared error of the predicted noise, or its distance from another target [B, 4, h, w].

    With snr_gamma each picture has its min-SNR weight (Hang et al. 2023, arXiv 2303.09556).
    """
    target = batch.noise if target is None else target
    errors = (prediction(unet, scheduler, batch) - target).square().mean((1, 2, 3))
    if snr_gamma:
        snr = compute_snr(scheduler, batch.timesteps)
        errors = snr.clamp(max=snr_gamma) / snr * errors
    return errors.mean()


def prior_preserving_loss(
    unet,
    scheduler: DDPMScheduler,
    instance: Batch,
    prior: Batch,
    weight: float,
    snr_gamma: float = 0.0,
    prior_target: torch.Tensor | None = None,
) -> torch.Tensor:
    """DreamBooth's (Ruiz et al. 2022, arXiv 2208.12242): the loss of the pictures and, weighted, that of the class's.

    As in diffusers' scripts min-SNR weights are for the former alone. prior_target is what is to be predicted for the
    class's instead of the noise.
    """
    prior_loss = denoising_loss(unet, scheduler, prior, target=prior_target)
    return denoising_loss(unet, scheduler, instance, snr_gamma) + weight * prior_loss
