"""Latents to pictures through a tiny autoencoder (TAESD, Boer Bohan, github.com/madebyollin/taesd)."""

import comfy.latent_formats
import comfy.sd
import comfy.taesd.taesd
import torch

# The host's class of latents -> TAESD's factor for them, and what they are called. Nothing else tells two TAESDs apart.
FAMILIES = {
    "SD15": (comfy.latent_formats.SD15().scale_factor, "SD 1.5"),
    "SDXL": (comfy.latent_formats.SDXL().scale_factor, "SDXL"),
}


def decode(vae: comfy.sd.VAE, samples: torch.Tensor, drawn_as: str | None = None) -> torch.Tensor:
    """[B, 4, h, w] latents -> [B, 8h, 8w, 3] pictures in 0..1, fp32 on the host's intermediate device.

    drawn_as is the host's class of latents, where the latents say so (lcm.FAMILY). Raises ValueError for a VAE that is not
    tiny or another family's, and for latents or pictures that are not numbers.
    """
    if not isinstance(vae.first_stage_model, comfy.taesd.taesd.TAESD):
        raise ValueError(
            f"This VAE is a full one ({type(vae.first_stage_model).__name__}): decode it with VAE Decode, "
            "or set vae to `tiny` in Load Vega."
        )
    scale = vae.first_stage_model.vae_scale.item()
    made_for = next((name for name, (factor, _) in FAMILIES.items() if abs(scale - factor) < 1e-3), None)
    if made_for and drawn_as in FAMILIES and made_for != drawn_as:
        raise ValueError(
            f"This VAE decodes {FAMILIES[made_for][1]} latents, and these were drawn by a model of the "
            f"{FAMILIES[drawn_as][1]} family: take the VAE from the Load Vega that the model came from."
        )
    if samples.is_nested or samples.ndim != 4 or samples.shape[1] != vae.latent_channels:
        raise ValueError(f"samples has the shape {list(samples.shape)}; this VAE needs {vae.latent_channels} channels.")
    if not samples.isfinite().all():
        raise ValueError("samples contains NaN or infinite values: look at the node that made them.")
    pictures = vae.decode(samples)
    if not pictures.isfinite().all():
        raise ValueError("The tiny decoder gave NaN or infinite values: its weights are damaged, download them again.")
    return pictures
