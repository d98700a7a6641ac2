"""A model on disk, a diffusers folder or a single file, to MODEL, CLIP and VAE."""

from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch

from . import (
    diffusers_config,
    encoder_files,
    full_autoencoder,
    model_facts,
    native_resolution,
    prediction,
    single_file,
    text_encoders,
    tiny_autoencoder,
    trained_size,
    unet,
    weights,
)

NANO_DIR = Path(__file__).parent / "nano"
NANO_LORA = NANO_DIR / "lcm-lora" / "pytorch_lora_weights.safetensors"
PART_COUNT = 3  # MODEL, CLIP and VAE
TIME_IDS_EMBED_DIM = 6 * 256  # channels of SDXL's added condition; the others are the pooled prompt's


def load(
    path: Path, vae: str, embedding_directory: list[str], approx: dict[str, Path] | None = None
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """Every part of a diffusers folder or a single file, complete or refused; the host shows how many there are yet.

    vae: "tiny" (the model's own AutoencoderTiny, or TAESD from approx, name -> path of the files in models/vae_approx)
    or "full" (the model's own AutoencoderKL). Raises ValueError naming the file, what is wrong with it and what to do.
    """
    progress = comfy.utils.ProgressBar(PART_COUNT)
    progress.update_absolute(0)
    load_parts = from_folder if path.is_dir() else from_file
    model, clip, autoencoder = load_parts(path, vae, embedding_directory, approx or {}, progress)
    model.set_attachments(trained_size.ATTACHMENT_KEY, find_trained_size(path, model))
    # The host makes a dynamic patcher where it can; graph replay needs weights at fixed addresses.
    autoencoder.patcher = comfy.model_patcher.ModelPatcher(
        autoencoder.first_stage_model,
        load_device=autoencoder.device,
        offload_device=comfy.model_management.vae_offload_device(),
    )
    progress.update(1)
    return model, clip, autoencoder


def find_trained_size(path: Path, model: comfy.model_patcher.ModelPatcher) -> trained_size.TrainedSize:
    """vega-nano's in whatever file it lies; of others a folder says it in its config.json, and a file is of its family's."""
    if model_facts.family(model) == "vega-nano":
        return trained_size.NANO_TRAINED_SIZE
    if path.is_dir():
        return trained_size.of_side(native_resolution.read_pixels(path))
    is_sdxl = model.model.model_config.unet_config["adm_in_channels"]
    return trained_size.of_side(native_resolution.SDXL_RESOLUTION if is_sdxl else native_resolution.SD15_RESOLUTION)


def from_folder(
    folder: Path, vae: str, embedding_directory: list[str], approx: dict[str, Path], progress: comfy.utils.ProgressBar
):
    for part in ("unet", "text_encoder", "vae"):
        if not (folder / part / "config.json").is_file():
            advice = part_advice(folder)
            raise ValueError(f"{folder} is not a whole diffusers folder: {part}/config.json is missing. {advice}")
    prediction.check_scheduler(folder / "scheduler" / "scheduler_config.json")
    config_file = folder / "unet" / "config.json"
    config = weights.read_json(config_file)
    encoders = encoder_files.from_folder(folder)
    path, state_dict = weights.read_part(folder / "unet", "diffusion_pytorch_model")
    model = unet.load(path, config_file, config, state_dict)
    check_widths(config_file, model.model.model_config.unet_config, encoders)
    progress.update(1)
    clip = text_encoders.load(encoders, embedding_directory)
    progress.update(1)
    del encoders  # while they live, their files count as memory
    latent_format = model.model.latent_format
    vae_config = weights.read_json(folder / "vae" / "config.json")
    is_tiny = vae_config.get("_class_name") == "AutoencoderTiny"
    if vae == "tiny":
        if is_tiny:
            return model, clip, tiny_autoencoder.from_folder(folder / "vae", vae_config, latent_format)
        return model, clip, tiny_autoencoder.from_approx(approx, latent_format)
    if is_tiny:
        raise ValueError(f"{folder / 'vae'} holds only a tiny autoencoder: set vae to `tiny`.")
    return model, clip, full_autoencoder.from_folder(folder / "vae", vae_config, latent_format.scale_factor)


def part_advice(folder: Path) -> str:
    """What to do about a folder that lacks a part, by what its model_index.json says that it is."""
    index = folder / "model_index.json"
    pipeline = weights.read_json(index).get("_class_name") if index.is_file() else None
    if (folder / "text_encoder_2").is_dir() and not (folder / "text_encoder").is_dir():
        return f"If it has none, it is {diffusers_config.REFINER_MESSAGE}. Else download it again."
    if isinstance(pipeline, str) and ("StableDiffusion" not in pipeline or "StableDiffusion3" in pipeline):
        return f"It is for {pipeline}; Load Vega takes models of the SDXL and SD 1.5 families."
    return "Download it again."


def from_file(
    path: Path, vae: str, embedding_directory: list[str], approx: dict[str, Path], progress: comfy.utils.ProgressBar
):
    parts = single_file.read(path)
    model = unet.load(path, path, parts.config, parts.unet)
    encoders = text_encoders.from_file(path, parts)
    check_widths(path, model.model.model_config.unet_config, encoders)
    progress.update(1)
    clip = text_encoders.load(encoders, embedding_directory)
    progress.update(1)
    latent_format = model.model.latent_format
    is_tiny = any(name.startswith("taesd_decoder.") for name in parts.vae)
    if vae == "tiny":
        if is_tiny:
            scale = parts.vae.get("vae_scale", torch.zeros(0))
            if scale.numel() != 1:
                raise ValueError(f"{path}: its tiny autoencoder lacks vae_scale. Save or download it again.")
            saved = tiny_autoencoder.load(path, parts.vae, scale.item(), f"the tiny encoder, which {path} was saved without")
            return model, clip, saved
        return model, clip, tiny_autoencoder.from_approx(approx, latent_format)
    if is_tiny or not parts.vae:
        raise ValueError(f"{path} holds no full autoencoder: set vae to `tiny`.")
    return model, clip, full_autoencoder.load(path, parts.vae)


def check_widths(path: Path, unet_config: dict, encoders: dict[str, encoder_files.Encoder]) -> None:
    """ValueError where the text encoders are not this UNet's own: every prompt would fail, or mean something else."""
    needed, pooled = unet_config["context_dim"], unet_config["adm_in_channels"]
    if pooled and "clip_g" not in encoders:
        raise ValueError(f"{path} needs two text encoders, and text_encoder_2/ is missing. Download the model again.")
    widths = {name: encoder.width for name, encoder in encoders.items()}
    if sum(widths.values()) != needed or (pooled and pooled != TIME_IDS_EMBED_DIM + widths["clip_g"]):
        raise ValueError(
            f"{path} needs {needed} features a token{f' and {pooled - TIME_IDS_EMBED_DIM} a prompt' if pooled else ''}, its "
            f"text encoders give {' + '.join(map(str, widths.values()))}: they belong to another model. Download it again."
        )
