"""The autoencoder of a diffusers folder, tiny (TAESD) or full (AutoencoderKL), as the host's VAE."""

import json
from pathlib import Path

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.taesd.taesd
import torch

from . import weights

TINY = {
    "act_fn": "relu",
    "block_out_channels": [64, 64, 64, 64],
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "latent_channels": 4,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "upsampling_scaling_factor": 2,
}
FULL = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}


def load(folder: Path, kind: str, latent_format: comfy.latent_formats.LatentFormat) -> comfy.sd.VAE:
    """VAE of the wanted kind ("tiny" or "full") from folder (a checkpoint's vae/); ValueError if it holds another."""
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    is_tiny = config.get("_class_name") == "AutoencoderTiny"
    if kind == "full" and is_tiny:
        raise ValueError(f"{folder} holds only a tiny autoencoder: set vae to `tiny`.")
    if kind == "tiny" and not is_tiny:
        raise ValueError(f"{folder} holds no tiny autoencoder (AutoencoderTiny): set vae to `full`.")
    path = weights.find(folder, "diffusion_pytorch_model")
    found, _ = weights.read(path)
    for option, value in (TINY if is_tiny else FULL).items():
        if config.get(option, value) != value:
            raise ValueError(f"{config_file}: {option} = {config[option]!r} is not supported (only {value!r}).")
    vae = tiny(path, found, config.get("scaling_factor", 1.0), latent_format) if is_tiny else full(path, found)
    # The host makes a dynamic patcher where it can; graph replay needs weights at fixed addresses.
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model,
        load_device=vae.device,
        offload_device=comfy.model_management.vae_offload_device(),
    )
    return vae


def tiny(path: Path, found: dict, scaling_factor: float, latent_format) -> comfy.sd.VAE:
    """An AutoencoderTiny state dict as the host's TAESD."""
    state_dict = {host_name(name): tensor for name, tensor in found.items()}
    # latents on the wire are UNet latents / scale_factor; the tiny decoder wants UNet latents / scaling_factor.
    state_dict["vae_scale"] = torch.tensor(latent_format.scale_factor / scaling_factor)
    state_dict["vae_shift"] = torch.tensor(0.0)
    weights.check(path, state_dict, comfy.taesd.taesd.TAESD().state_dict())
    device = comfy.model_management.vae_device()
    half = comfy.model_management.should_use_fp16(device)
    vae = comfy.sd.VAE(sd=state_dict, dtype=torch.float16 if half else torch.float32)
    # 64 channels at full size, about six of them alive at once; the host reserves AutoencoderKL's 4 to 8 GiB.
    vae.memory_used_decode = lambda shape, dtype: 6 * 64 * 64 * shape[2] * shape[3] * dtype.itemsize
    vae.memory_used_encode = lambda shape, dtype: 6 * 64 * shape[2] * shape[3] * dtype.itemsize
    return vae


def host_name(name: str) -> str:
    """diffusers' name of an AutoencoderTiny weight -> the host's; the host counts the decoder's clamp as layer 0."""
    side, layers, index, *rest = name.split(".")
    if layers != "layers" or not index.isdigit():
        return name
    return ".".join([f"taesd_{side}", str(int(index) + (side == "decoder")), *rest])


def full(path: Path, found: dict) -> comfy.sd.VAE:
    """An AutoencoderKL state dict as the host's VAE."""
    converted = comfy.diffusers_convert.convert_vae_state_dict(found)
    try:
        vae = comfy.sd.VAE(sd=dict(converted))
        vae.throw_exception_if_invalid()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit an AutoencoderKL ({reason}). Download the model again.") from error
    weights.check(path, converted, vae.first_stage_model.state_dict())
    return vae
