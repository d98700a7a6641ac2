"""A checkpoint's own AutoencoderKL as the host's VAE."""

from pathlib import Path

import comfy.diffusers_convert
import comfy.sd
import torch

from . import weights

# What the host makes of any AutoencoderKL (comfy/sd.py).
REQUIRED = {
    "act_fn": ("silu",),
    "block_out_channels": ([128, 256, 512, 512],),
    "latent_channels": (4,),
    "layers_per_block": (2,),
    "norm_num_groups": (32,),
}
ATTENTION_RENAMES = {".to_q.": ".q.", ".to_k.": ".k.", ".to_v.": ".v.", ".to_out.0.": ".proj_out."}
TRAINING_PREFIXES = ("loss.", "model_ema.")  # left in some files


def from_folder(folder: Path, config: dict, scale_factor: float) -> comfy.sd.VAE:
    """VAE from a diffusers folder's vae/; ValueError where the host's is not the same, or its latents another family's."""
    path, state_dict = weights.read_part(folder, "diffusion_pytorch_model")
    weights.require(folder / "config.json", config, REQUIRED)
    if config.get("scaling_factor", scale_factor) != scale_factor:
        raise ValueError(
            f"{folder / 'config.json'}: scaling_factor = {config['scaling_factor']!r}, but the UNet's latents need "
            f"{scale_factor}: this autoencoder belongs to another model. Use the model's own, or set vae to `tiny`."
        )
    return load(path, state_dict)


def load(path: Path, state_dict: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """VAE from weights under diffusers' names, or in the LDM layout as single files hold them."""
    try:
        if any(name.startswith("decoder.up_blocks.") for name in state_dict):
            state_dict = comfy.diffusers_convert.convert_vae_state_dict(state_dict)
        else:
            trained = ((name, tensor) for name, tensor in state_dict.items() if not name.startswith(TRAINING_PREFIXES))
            state_dict = dict(normalize_ldm_weight(*item) for item in trained)
        vae = comfy.sd.VAE(sd=dict(state_dict))
        vae.throw_exception_if_invalid()
    except (RuntimeError, LookupError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(
            f"{path} does not fit an AutoencoderKL ({reason}): use the autoencoder that the model was published with."
        ) from error
    weights.check(path, state_dict, vae.first_stage_model.state_dict())
    if (vae.latent_channels, vae.downscale_ratio) != (4, 8):
        raise ValueError(
            f"{path} holds an autoencoder of another family: {vae.latent_channels} channels instead of 4. "
            "Use the model's own, or set vae to `tiny`."
        )
    return vae


def normalize_ldm_weight(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A weight of the LDM layout, in which some converters left diffusers' newer attention: its names, and no 1 x 1
    convolutions (github.com/huggingface/diffusers/issues/8320).
    """
    if ".attn_1." in name:
        for theirs, ours in ATTENTION_RENAMES.items():
            name = name.replace(theirs, ours)
        if name.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[..., None, None]
    return name, tensor
