"""The diffusion process that SDXL-family models are trained with: noise schedule, timesteps, loss weights, prediction."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from .device import default_device

NUM_TRAIN_TIMESTEPS = 1000
# The schedule of Segmind-Vega, and of SDXL.
NOISE_SCHEDULE = dict(
    num_train_timesteps=NUM_TRAIN_TIMESTEPS, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
)
SNR_CAP = 5.0  # gamma of min-SNR weighting, Hang et al. 2023 (arXiv 2303.09556)


class Diffusion:
    """The forward process of an epsilon-predicting SDXL checkpoint, and its inverse.

    Timesteps are [B], latents [B, C, h, w].
    """

    def __init__(self, device: torch.device):
        self.alphas_cumprod = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod.to(device)

    def coefficients(self, t: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), each [B, 1, 1, 1]."""
        a = self.alphas_cumprod[t][:, None, None, None].to(dtype)
        return a.sqrt(), (1 - a).sqrt()

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, s = self.coefficients(t, clean.dtype)
        return a * clean + s * noise

    def pred_original_sample(self, noisy: torch.Tensor, epsilon: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean latents that the predicted noise epsilon implies."""
        a, s = self.coefficients(t, noisy.dtype)
        return (noisy - s * epsilon) / a


def load_unet(folder: Path) -> UNet2DConditionModel:
    """A UNet of any family, ready to train on this machine."""
    return prepare_for_device(UNet2DConditionModel.from_pretrained(folder))


def prepare_for_device(unet: UNet2DConditionModel, device: torch.device | None = None) -> UNet2DConditionModel:
    """On this device, or on the default one."""
    unet = unet.to(device or default_device())
    if unet.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # measured faster than fused attention on a CPU
    return unet


def predict_noise(
    unet, noisy: torch.Tensor, t: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor | None], time_ids: torch.Tensor
) -> torch.Tensor:
    """The noise [B, 4, h, w] that a UNet predicts, given (context, pooled text) and [B, 6] time ids, which SD 1.5 lacks."""
    context, pooled = text
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
    return unet(noisy, t, context, added_cond_kwargs=added).sample


def stratified_uniform(count: int) -> torch.Tensor:
    """[count] random numbers in 0..1, one in each of `count` equal intervals, so that batches are alike."""
    return (torch.arange(count) + torch.rand(())) / count % 1


def stratified_timesteps(count: int) -> torch.Tensor:
    """[count] timesteps, stratified, a little denser at high noise, where the composition is decided."""
    return (NUM_TRAIN_TIMESTEPS * stratified_uniform(count) ** 0.75).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)


def loss_weight(snr: torch.Tensor) -> torch.Tensor:
    """Min-SNR weights, raised where noise prevails: there a small error in the noise is a large one in the picture."""
    return snr.clamp(max=SNR_CAP) / snr * snr.clamp(max=1) ** -0.25
