"""Latents to pictures through a tiny autoencoder (TAESD, Boer Bohan, github.com/madebyollin/taesd)."""

import comfy.sd
import comfy.taesd.taesd
import torch


def decode(vae: comfy.sd.VAE, samples: torch.Tensor) -> torch.Tensor:
    """[B, 4, h, w] latents -> [B, 8h, 8w, 3] pictures in 0..1, fp32 on the host's intermediate device.

    Raises ValueError for a VAE that is not tiny, and for latents or pictures that are not numbers.
    """
    if not isinstance(vae.first_stage_model, comfy.taesd.taesd.TAESD):
        raise ValueError(
            f"This VAE is a full one ({type(vae.first_stage_model).__name__}): decode it with VAE Decode, "
            "or set vae to `tiny` in Load Vega."
        )
    if samples.is_nested or samples.ndim != 4 or samples.shape[1] != vae.latent_channels:
        raise ValueError(f"samples has the shape {list(samples.shape)}; this VAE needs {vae.latent_channels} channels.")
    if not samples.isfinite().all():
        raise ValueError("samples contains NaN or infinite values: look at the node that made them.")
    pictures = vae.decode(samples)
    if not pictures.isfinite().all():
        raise ValueError("The tiny decoder gave NaN or infinite values: its weights are damaged, download them again.")
    return pictures
