"""Latents to pictures through a tiny autoencoder (TAESD, Boer Bohan, github.com/madebyollin/taesd)."""

import itertools
import math

import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import torch

from . import cpu_decoder
from .latent_formats import FAMILIES, PIXELS_PER_LATENT

TILE_LATENTS = 128  # on a side: 1024 pixels
SAMPLE_STRIDE = 16  # every so many pixels of a row and a column
CONTEXT_LATENTS = 19  # around a pixel that it depends on, by the sizes of the decoder's kernels


def decode(
    vae: comfy.sd.VAE, samples: torch.Tensor, latent_family: str | None = None, cpu_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """[B, 4, h, w] latents -> [B, 8h, 8w, 3] pictures in 0..1, fp32 on the host's intermediate device.

    latent_family is the host's class of latents, where the latents say so (LATENT_FORMAT_KEY). On a processor cpu_dtype is
    that of cpu_decoder's products, and None leaves the decoder to the host's layers. ValueError for a VAE that is not tiny
    or another family's, and for latents or pictures that are not numbers.
    """
    if not isinstance(vae.first_stage_model, comfy.taesd.taesd.TAESD):
        raise ValueError(
            f"This VAE is a full one ({type(vae.first_stage_model).__name__}): decode it with VAE Decode, "
            "or set vae to `tiny` in Load Vega."
        )
    scale = vae.first_stage_model.vae_scale.item()
    made_for = next((name for name, family in FAMILIES.items() if abs(scale - family.scale_factor) < 1e-3), None)
    if made_for and latent_family in FAMILIES and made_for != latent_family:
        raise ValueError(
            f"This VAE decodes {FAMILIES[made_for].title} latents, and these were drawn by a model of the "
            f"{FAMILIES[latent_family].title} family: take the VAE from the Load Vega that the model came from."
        )
    if samples.is_nested or samples.ndim != 4 or samples.shape[1] != vae.latent_channels:
        raise ValueError(
            f"samples has the shape {list(samples.shape)}; this VAE needs {vae.latent_channels} channels: take the "
            "VAE from the loader that the model came from."
        )
    if not samples.isfinite().all():
        raise ValueError("samples contains NaN or infinite values: look at the node that made them.")
    if vae.device.type != "cpu" or vae.vae_dtype != torch.float32:
        cpu_dtype = None
    if cpu_dtype:
        cpu_decoder.begin_image(vae.first_stage_model.taesd_decoder)
    with comfy.model_management.cuda_device_context(vae.device):
        return decode_within_memory(vae, samples, cpu_dtype)


def decode_within_memory(vae: comfy.sd.VAE, samples: torch.Tensor, cpu_dtype: torch.dtype | None = None) -> torch.Tensor:
    """The pictures, whole where the memory suffices beside the models that are loaded, else in tiles; see decode."""
    height, width = samples.shape[-2:]
    # Room for one tile is all that other models may have to go for.
    least = memory_needed([1, *(min(side, TILE_LATENTS + 2 * CONTEXT_LATENTS) for side in (height, width))], vae.vae_dtype)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=least)
    at_once = int(vae.patcher.get_free_memory(vae.device) / memory_needed([1, height, width], vae.vae_dtype))
    if at_once:
        try:
            device = comfy.model_management.intermediate_device()
            parts = [decode_whole(vae, part, cpu_dtype).to(device) for part in samples.split(at_once)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        except Exception as error:
            comfy.model_management.raise_non_oom(error)
    for side in (TILE_LATENTS, TILE_LATENTS // 2):
        try:
            return decode_tiled(vae, samples, side, cpu_dtype)
        except Exception as error:
            comfy.model_management.raise_non_oom(error)
            comfy.model_management.soft_empty_cache()
    pixels = PIXELS_PER_LATENT * side
    raise RuntimeError(
        f"There is not even memory for {pixels} x {pixels} pixels at once: close other programs that use the GPU, "
        "or start ComfyUI with --cpu-vae."
    )


def decode_tiled(vae: comfy.sd.VAE, samples: torch.Tensor, side: int, cpu_dtype: torch.dtype | None = None) -> torch.Tensor:
    """The pictures in tiles of side x side latents, each decoded with all that it can see: equal to the whole."""
    batch, _, height, width = samples.shape
    device, dtype = comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()
    pixels = PIXELS_PER_LATENT
    out = torch.empty(batch, pixels * height, pixels * width, 3, device=device, dtype=dtype)
    for item, y, x in itertools.product(range(batch), range(0, height, side), range(0, width, side)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        top, left = max(0, y - CONTEXT_LATENTS), max(0, x - CONTEXT_LATENTS)
        bottom, right = y + side + CONTEXT_LATENTS, x + side + CONTEXT_LATENTS
        decoded = decode_whole(vae, samples[item : item + 1, :, top:bottom, left:right], cpu_dtype)
        tile = decoded[0, pixels * (y - top) :, pixels * (x - left) :][: pixels * side, : pixels * side]
        out[item, pixels * y : pixels * (y + side), pixels * x : pixels * (x + side)] = tile
    return out


def decode_whole(vae: comfy.sd.VAE, samples: torch.Tensor, cpu_dtype: torch.dtype | None = None) -> torch.Tensor:
    """[B, 4, h, w] latents -> [B, 8h, 8w, 3] in 0..1 on the VAE's device, in the host's dtype of pictures."""
    model = vae.first_stage_model
    # Channels last is the layout that the fast convolutions work in, and that of the host's images.
    z = samples.to(vae.device, vae.vae_dtype, memory_format=torch.channels_last)
    z = (z - model.vae_shift) * model.vae_scale
    raw = cpu_decoder.decode(model.taesd_decoder, z, cpu_dtype) if cpu_dtype else model.taesd_decoder(z).movedim(1, -1)
    if not raw.sum(dtype=torch.float32).isfinite():  # one pass; isfinite().all() takes many times as long
        raise ValueError("The tiny decoder gave NaN or infinite values: its weights are damaged, download them again.")
    return raw.to(comfy.model_management.intermediate_dtype()).clamp_(0, 1)


def is_black(images: torch.Tensor) -> bool:
    """Whether a picture of [B, H, W, 3] has no light at all; of others a few pixels are read, so that it costs nothing."""
    return any(not image[::SAMPLE_STRIDE, ::SAMPLE_STRIDE].any() and not image.any() for image in images)


def memory_needed(shape: list[int], dtype: torch.dtype) -> int:
    """Bytes to decode [B, h, w] latents: three tensors of 64 channels at full size, and as much as one for convolving."""
    return 4 * 64 * 64 * math.prod(shape) * dtype.itemsize
