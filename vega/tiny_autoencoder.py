"""TAESD (Boer Bohan, github.com/madebyollin/taesd) from wherever a user has it, as the host's VAE."""

from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import torch

from . import tiny_decoder, weights
from .latent_formats import FAMILIES, PIXELS_PER_LATENT, taesd_name

REQUIRED = {
    "act_fn": ("relu",),
    "block_out_channels": ([64, 64, 64, 64],),
    "decoder_block_out_channels": ([64, 64, 64, 64],),
    "encoder_block_out_channels": ([64, 64, 64, 64],),
    "latent_channels": (4,),
    "num_decoder_blocks": ([3, 3, 3, 1],),
    "num_encoder_blocks": ([1, 3, 3, 3],),
    "upsampling_scaling_factor": (2,),
}


class MissingEncoder(torch.nn.Module):
    """Stands where the encoder would: a picture cannot be encoded with the decoder's file alone."""

    def __init__(self, needed: str):
        super().__init__()
        self.needed = needed

    def forward(self, pixels):
        raise ValueError(f"Only the tiny decoder is there; encoding a picture needs {self.needed}.")


def from_folder(folder: Path, config: dict, latent_format: comfy.latent_formats.LatentFormat) -> comfy.sd.VAE:
    """VAE from a diffusers folder's vae/ that holds an AutoencoderTiny."""
    path, state_dict = weights.read_part(folder, "diffusion_pytorch_model")
    weights.require(folder / "config.json", config, REQUIRED)
    scaling_factor = config.get("scaling_factor", 1.0)
    if not isinstance(scaling_factor, (int, float)) or not 0 < scaling_factor < float("inf"):
        raise ValueError(
            f"{folder / 'config.json'}: scaling_factor = {scaling_factor!r} is not a positive number. Download it again."
        )
    return load(path, to_host_names(state_dict, "decoder"), latent_format.scale_factor / scaling_factor)


def from_approx(files: dict[str, Path], latent_format: comfy.latent_formats.LatentFormat) -> comfy.sd.VAE:
    """VAE from models/vae_approx: files (name -> path) holds ComfyUI's pair of files, or a whole AutoencoderTiny.

    ValueError naming the file to download, if what is there is for another family's latents.
    """
    name = taesd_name(latent_format)
    by_stem = {}
    for file, path in files.items():
        whole_folder = Path(file).stem == "diffusion_pytorch_model"
        by_stem.setdefault(Path(file).parent.name if whole_folder else Path(file).stem, []).append(path)
    decoders, encoders, both = (by_stem.get(stem, []) for stem in (f"{name}_decoder", f"{name}_encoder", name))
    if decoders or both:
        path, state_dict = read_first_readable(decoders + both)
        state_dict = to_host_names(state_dict, "decoder")
        if path in both:
            return load(path, state_dict, latent_format.scale_factor)
        if encoders:
            encoder, part = read_first_readable(encoders)
            part = to_host_names(part, "encoder")
            weights.check(encoder, part, {k: v for k, v in meta_state_dict().items() if k.startswith("taesd_encoder.")})
            state_dict |= part
        return load(path, state_dict, latent_format.scale_factor, f"{name}_encoder.safetensors in models/vae_approx")
    titles = {family.taesd: family.title for family in FAMILIES.values()}
    there = "".join(
        f" ({other}, which is there, is for {titles[other]}, and this model is of the {titles[name]} family)"
        for other in titles
        if other != name and {other, f"{other}_decoder"} & by_stem.keys()
    )
    raise ValueError(
        f"There is no {name} in models/vae_approx{there}: download {name}_decoder.safetensors and "
        f"{name}_encoder.safetensors from huggingface.co/madebyollin/{name} into it, or set vae to `full`."
    )


def read_first_readable(paths: list[Path]) -> tuple[Path, dict[str, torch.Tensor]]:
    """The first of these files that can be read, and its tensors; ValueError about the first of all where none can."""
    refusals = []
    for path in paths:
        try:
            return path, weights.read(path)[0]
        except ValueError as error:
            refusals.append(error)
    raise refusals[0]


def load(path: Path, state_dict: dict[str, torch.Tensor], vae_scale: float, missing_encoder: str = "") -> comfy.sd.VAE:
    """VAE from the host's names; vae_scale takes the host's latents to the autoencoder's.

    missing_encoder says what encoding would need, where the decoder alone is enough.
    """
    full = state_dict | {"vae_scale": torch.tensor(vae_scale), "vae_shift": torch.tensor(0.0)}
    needed = meta_state_dict()
    decodes_only = missing_encoder and not any(k.startswith("taesd_encoder.") for k in state_dict)
    if decodes_only:
        full |= {k: torch.zeros(v.shape) for k, v in needed.items() if k.startswith("taesd_encoder.")}
    weights.check(path, full, needed)
    half = comfy.model_management.should_use_fp16(comfy.model_management.vae_device())
    vae = comfy.sd.VAE(sd=full, dtype=torch.float16 if half else torch.float32)
    if decodes_only:
        vae.first_stage_model.taesd_encoder = MissingEncoder(missing_encoder)
    vae.first_stage_model.to(memory_format=torch.channels_last)
    # The host reserves AutoencoderKL's 4 to 8 GiB. Going in there are as many and as large tensors as coming out.
    vae.memory_used_decode = lambda shape, dtype: tiny_decoder.memory_needed([1, *shape[2:]], dtype)
    vae.memory_used_encode = lambda shape, dtype: tiny_decoder.memory_needed(
        [1, *(side // PIXELS_PER_LATENT for side in shape[2:])], dtype
    )
    return vae


def meta_state_dict() -> dict[str, torch.Tensor]:
    """The host's TAESD state dict, without memory behind it."""
    with torch.device("meta"):
        return comfy.taesd.taesd.TAESD().state_dict()


def to_host_names(state_dict: dict[str, torch.Tensor], side: str) -> dict[str, torch.Tensor]:
    """TAESD weights under the host's names, from diffusers', the host's, or those of a file of one `side` alone."""
    renamed = {}
    for name, tensor in state_dict.items():
        module, _, rest = name.partition(".")
        if module.isdigit():
            name = f"taesd_{side}.{name}"
        elif rest.startswith("layers."):
            index, _, leaf = rest.removeprefix("layers.").partition(".")
            if index.isdigit():  # the host counts the decoder's clamp as layer 0
                name = f"taesd_{module}.{int(index) + (module == 'decoder')}.{leaf}"
        renamed[name] = tensor
    return renamed
