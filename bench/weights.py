"""The models that are measured: on a GPU Segmind-Vega's shapes with random weights, on a CPU vega-nano."""

import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderTiny, LCMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from dev import diffusers_folders as folders

from .machine import GPU

ROOT = Path(__file__).resolve().parents[1]
WORK_DIR = ROOT / ".bench"
NANO_DIR = ROOT / "vega" / "nano"
RANK = 64  # of the published LCM-LoRAs
DECODER_INPUT_SCALE = 0.07
LORA = "lcm.safetensors"
COMPLETE_MARKER = "whole"  # the last file written: models without it are from a run that was stopped


class Models(NamedTuple):
    """Where every variant finds the same weights."""

    base: Path  # the server's base directory; its models/ holds the files below
    folder: Path  # for diffusers
    vega: str  # Load Vega's name of it
    checkpoint: str | None  # core's name of it; None where core cannot load it,
    second: str | None  # and there Load Vega's name for core's graphs: sharing one, each would undo the other's LoRA
    lora: str  # of the kohya-format LCM-LoRA, for every variant


def prepare_models() -> Models:
    """The models of this machine, made at the first call and kept in .bench."""
    base = WORK_DIR / ("vega" if GPU else "nano")
    found = Models(
        base,
        base / "models" / "diffusers" / "vega" if GPU else NANO_DIR,
        "vega/" if GPU else "vega-nano (embedded)",
        "vega.safetensors" if GPU else None,
        None if GPU else "nano/",
        LORA,
    )
    if not (base / COMPLETE_MARKER).is_file():
        shutil.rmtree(base, ignore_errors=True)
        for kind in ("loras", "vae_approx", "checkpoints", "diffusers"):
            (base / "models" / kind).mkdir(parents=True)
        if GPU:
            write_vega(found)
        else:
            (base / "models" / "diffusers" / "nano").symlink_to(NANO_DIR, target_is_directory=True)
            tiny = load_file(NANO_DIR / "vae" / "diffusion_pytorch_model.safetensors")
            write_tiny_autoencoder(tiny, base / "models" / "vae_approx")
            shutil.copy(NANO_DIR / "lcm-lora" / "pytorch_lora_weights.safetensors", base / "models" / "loras" / LORA)
        (base / COMPLETE_MARKER).touch()
    return found


def write_tiny_autoencoder(state_dict: dict[str, torch.Tensor], target: Path) -> None:
    """An AutoencoderTiny's weights as the two files that core's VAELoader calls taesdxl."""
    for side in ("encoder", "decoder"):
        prefix = f"{side}.layers."
        part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if side == "decoder":  # core counts the clamp before it as layer 0
            part = {f"{int(k.split('.', 1)[0]) + 1}.{k.split('.', 1)[1]}": v for k, v in part.items()}
        save_file(part, target / f"taesdxl_{side}.safetensors")


def vega_modules() -> dict[str, torch.nn.Module]:
    """Segmind-Vega's UNet and text encoders at their published dimensions, on the meta device."""
    first = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768
    )
    second = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_attention_heads=20,
        num_hidden_layers=32,
        projection_dim=1280,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        parts = {"text_encoder": CLIPTextModel(first), "text_encoder_2": CLIPTextModelWithProjection(second)}
    return {"unet": folders.real_unet("Segmind-Vega"), **parts}


def fill_random(module: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    """The module in fp16 with random weights that keep activations in range."""
    module.half().to_empty(device="cpu")
    noise = torch.randn(2**24, generator=generator).half()
    for name, weight in module.named_parameters():
        if weight.ndim == 1:
            weight.data.fill_(float(name.endswith("weight")))
            continue
        noise = noise.roll(12345)
        flat = noise.repeat(-(-weight.numel() // len(noise)))[: weight.numel()]
        weight.data.copy_(flat.reshape(weight.shape) * weight[0].numel() ** -0.5)
    return module.eval()


def random_lcm_lora(unet: torch.nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A random LCM-LoRA in kohya's format on every module that the published ones adapt: all within the blocks."""
    tensors = {}
    for name, module in unet.named_modules():
        if name.startswith(("down_", "mid_", "up_")) and isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            out, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=generator) * module.weight[0].numel() ** -0.5
            up = torch.randn(out, RANK, *[1] * len(rest[1:]), generator=generator) * 0.01
            key = "lora_unet_" + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": down.half(), f"{key}.lora_up.weight": up.half()}
            tensors[f"{key}.alpha"] = torch.tensor(float(RANK))
    return tensors


def write_vega(target: Models) -> None:
    """The diffusers folder, the single file with the same weights, and the LCM-LoRA."""
    from dev import host_setup, single_files  # noqa: F401  (late: nothing else in this process needs the host's modules)

    generator = torch.Generator().manual_seed(0)
    parts = {name: fill_random(module, generator) for name, module in vega_modules().items()}
    parts["vae"] = AutoencoderTiny.from_pretrained(NANO_DIR / "vae").half()
    # Random latents would be pictures that no JPEG or PNG encoder ever sees; so softened they are as large as photographs:
    # at 1024 pixels about 0.3 MiB as JPEG, 0.9 MiB as PNG.
    parts["vae"].decoder.layers[0].weight.data.mul_(DECODER_INPUT_SCALE)
    files = target.base / "models"
    write_tiny_autoencoder(parts["vae"].state_dict(), files / "vae_approx")
    save_file(random_lcm_lora(parts["unet"], generator), files / "loras" / target.lora)
    single = {k: v.detach().contiguous() for k, v in single_files.to_single_file(parts).items()}
    save_file(single, files / "checkpoints" / target.checkpoint)
    StableDiffusionXLPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(NANO_DIR / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(NANO_DIR / "tokenizer_2"),
        scheduler=LCMScheduler.from_pretrained(NANO_DIR / "scheduler"),
        force_zeros_for_empty_prompt=False,
    ).save_pretrained(target.folder)
