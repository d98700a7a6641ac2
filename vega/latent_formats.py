"""The latents of the two families of models, SD 1.5's and SDXL's, as the host describes them (comfy/latent_formats.py)."""

from typing import NamedTuple

import comfy.latent_formats

PIXELS_PER_LATENT = 8  # on a side
LATENT_FORMAT_KEY = "vega_latent_format"  # key of a latent: the host's class of latents that it was drawn as
CPU_DTYPE_KEY = "vega_cpu_dtype"  # key of a latent: in what the tiny decoder multiplies on a processor, as Accelerate said


class LatentFamily(NamedTuple):
    """What users call the family, and its TAESD's file and scale factor: nothing else tells the two TAESDs apart."""

    title: str
    taesd: str
    scale_factor: float

    @classmethod
    def of(cls, title: str, latent_format: comfy.latent_formats.LatentFormat) -> "LatentFamily":
        return cls(title, taesd_name(latent_format), latent_format.scale_factor)


def taesd_name(latent_format: comfy.latent_formats.LatentFormat) -> str:
    """taesd or taesdxl."""
    return latent_format.taesd_decoder_name.removesuffix("_decoder")


# By the host's class of latents.
FAMILIES = {
    "SD15": LatentFamily.of("SD 1.5", comfy.latent_formats.SD15()),
    "SDXL": LatentFamily.of("SDXL", comfy.latent_formats.SDXL()),
}
