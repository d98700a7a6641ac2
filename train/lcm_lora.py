"""Stage 4: an LCM-LoRA for any SDXL-family checkpoint, by latent consistency distillation.

Luo et al. 2023, "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module" (arXiv 2311.05556), after
"Latent Consistency Models" (arXiv 2310.04378): a guided teacher goes down by DDIM, and from every point of its way the
student must predict the clean latent that it predicts from the end of it. Here the way goes down to t = 0, where the
student's answer is by its boundary condition the latent itself: so it learns from the teacher alone, and errors of its
own do not add up. (On vega-nano 2400 training steps came to a Frechet distance of 24.3 so, 4800 with ways of three to 32.2.)
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from . import text_encoders
from .fitting import fingerprint, fit, flat_then_cosine, whole
from .muon import Muon
from .text_to_image import load, predicted
from .ways import Diffusion, Ways

BATCH = 24  # points
LESSONS = 2  # how often each point is learned from
POINTS = 200  # of a file of ways, about
LEARNING_RATE = 3e-3
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
HUBER_C = 0.001
EMA_DECAY = 0.98
RANK = 32
PARTS = ("unet", "text_encoder", "text_encoder_2")
# What the published LCM-LoRAs adapt.
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "conv1",
    "conv2",
    "conv_shortcut",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
    "time_emb_proj",
)


def boundary_scalings(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c_skip and c_out of the consistency function: the identity at t = 0."""
    t = t.float() * TIMESTEP_SCALING
    return SIGMA_DATA**2 / (t**2 + SIGMA_DATA**2), t / (t**2 + SIGMA_DATA**2) ** 0.5


def pseudo_huber(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((out - target).square() + HUBER_C**2).sqrt().sub(HUBER_C).mean()


def distil(
    folder: Path,
    out: Path,
    batch_of: Callable,
    steps: int,
    work: Path,
    seed: int = 0,
    rank: int = RANK,
    sample: Callable | None = None,
) -> list[float]:
    """Distils folder's UNet into the LoRA file `out` and returns the loss of every step.

    folder holds a diffusers checkpoint (unet, text_encoder, text_encoder_2); batch_of(step, size) gives the clean
    latents [B, 4, h, w], two [B, 77] token id tensors and the [B, 6] size ids of a step. sample(unet, encoders) shows
    what was learned so far. What was begun with other weights in folder is neither gone on with nor learned from.
    """
    set_seed(seed)
    unet, encoders = load(folder / "unet").requires_grad_(False), text_encoders.load(folder)
    diffusion = Diffusion(unet.device)
    base = fingerprint(sorted(f for name in PARTS for f in (folder / name).glob("*.safetensors")))
    files = -(-steps * BATCH // (LESSONS * POINTS))
    ways = Ways(work / f"lcm-lora-ways-{base}", files, unet, encoders, batch_of, seed)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))

    def loss_of(step):
        x, t, end, ids, sizes = ways.some(np.random.default_rng(step), BATCH)
        with torch.no_grad():
            text = encoders(ids)
        epsilon = predicted(unet, x, t, text, sizes)
        c_skip, c_out = (c[:, None, None, None] for c in boundary_scalings(t))
        return pseudo_huber(c_skip * x + c_out * diffusion.clean(x, epsilon, t), end)

    optimizer = Muon(unet, LEARNING_RATE, LEARNING_RATE)
    factor = flat_then_cosine(steps)
    show = sample and (lambda: sample(unet, encoders))
    losses = fit(unet, loss_of, optimizer, factor, work / f"lcm-lora-training-{base}", steps, EMA_DECAY, show)
    save(unet, out, rank)
    return losses


def save(unet, out: Path, rank: int) -> None:
    """Writes kohya keys with alpha, the form of the published LCM-LoRAs, which ComfyUI and diffusers both read."""
    tensors = {}
    for key, value in get_peft_model_state_dict(unet).items():
        module, side = key.removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + module.replace(".", "_")
        tensors[f"{name}.lora_{'down' if side == 'lora_A' else 'up'}.weight"] = value.half().contiguous().cpu()
        tensors[f"{name}.alpha"] = torch.tensor(float(rank), dtype=torch.float16)
    with whole(out) as file:
        save_file(tensors, file, metadata={"format": "pt"})
