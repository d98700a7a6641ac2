"""Stage 3: an LCM-LoRA for any SDXL-family checkpoint, by latent consistency distillation.

Luo et al. 2023, "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module" (arXiv 2311.05556), after
"Latent Consistency Models" (arXiv 2310.04378): a guided teacher takes one DDIM step down a coarse grid, and the
student must predict the same clean latent from both ends of that step.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from . import text_encoders
from .resuming import resumable_steps

BATCH = 24
LEARNING_RATE = 1e-3
GUIDANCE = (1.5, 3.5)  # the range of w; the guidance scale is 1 + w
GRID = 25  # DDIM steps from noise to picture
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
HUBER_C = 0.001
RANK = 32
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


class Diffusion:
    """The forward process of an epsilon-predicting checkpoint and one DDIM step of its reverse."""

    def __init__(self, betas: torch.Tensor):
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)

    def coefficients(self, t):
        a = self.alphas_cumprod[t][:, None, None, None]
        return a.sqrt(), (1 - a).sqrt()

    def noised(self, clean, noise, t):
        a, s = self.coefficients(t)
        return a * clean + s * noise

    def clean(self, noisy, epsilon, t):
        a, s = self.coefficients(t)
        return (noisy - s * epsilon) / a


def distil(
    folder: Path,
    out: Path,
    batch_of: Callable,
    steps: int,
    work: Path,
    seed: int = 0,
    rank: int = RANK,
) -> list[float]:
    """Distils folder's UNet into the LoRA file `out` and returns the loss of every step.

    folder holds a diffusers checkpoint (unet, text_encoder, text_encoder_2); batch_of(step, size) gives the clean
    latents [B, 4, h, w], two [B, 77] token id tensors and the [B, 6] size ids of a step.
    """
    accelerator = Accelerator()
    set_seed(seed)
    device = accelerator.device
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    if device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
    encoders = [
        CLIPTextModel.from_pretrained(folder / "text_encoder").to(device).requires_grad_(False),
        CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").to(device).requires_grad_(False),
    ]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square().float()
    diffusion = Diffusion(betas.to(device))
    diffusion.alphas_cumprod = diffusion.alphas_cumprod.to(device)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(30, steps // 5), steps)
    unet, optimizer, schedule = accelerator.prepare(unet, optimizer, schedule)
    model = accelerator.unwrap_model(unet)
    skip = 1000 // GRID
    losses = []
    for step in resumable_steps(accelerator, work / "lcm-lora-training", steps, every=100):
        latents, ids, sizes = batch_of(step, BATCH)
        clean, sizes = latents.to(device), sizes.to(device)
        ids = [i.to(device) for i in ids]
        size = len(clean)
        with torch.no_grad():
            context, pooled = text_encoders.encode(encoders, ids)
            null_context, null_pooled = text_encoders.encode(encoders, batch_null(ids))
        noise = torch.randn_like(clean)
        start = (torch.randint(1, GRID + 1, (size,), device=device)) * skip - 1
        end = (start - skip).clamp(min=0)
        w = torch.empty(size, 1, 1, 1, device=device).uniform_(*GUIDANCE)
        noisy = diffusion.noised(clean, noise, start)

        def predict(x, t, context=context, pooled=pooled, sizes=sizes):
            return unet(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample

        def consistency(x, t, predict=predict):
            c_skip, c_out = (c[:, None, None, None] for c in boundary_scalings(t))
            return c_skip * x + c_out * diffusion.clean(x, predict(x, t), t)

        with torch.no_grad():
            model.disable_adapters()
            conditional = predict(noisy, start)
            epsilon = conditional + w * (conditional - predict(noisy, start, null_context, null_pooled))
            model.enable_adapters()
            # One DDIM step (Song et al. 2020, eq. 12) from start to end.
            lower = diffusion.noised(diffusion.clean(noisy, epsilon, start), epsilon, end)
            target = consistency(lower, end)
        loss = pseudo_huber(consistency(noisy, start), target)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}", flush=True)
    save(model, out, rank)
    return losses


def batch_null(ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """Token ids of the empty prompt: begin, end, and whatever each encoder pads with."""
    null = []
    for i, pad in zip(ids, (49407, 0), strict=True):
        empty = torch.full_like(i, pad)
        empty[:, 0], empty[:, 1] = 49406, 49407
        null.append(empty)
    return null


def save(unet, out: Path, rank: int) -> None:
    """Writes kohya keys with alpha, the form of the published LCM-LoRAs, which ComfyUI and diffusers both read."""
    tensors = {}
    for key, value in get_peft_model_state_dict(unet).items():
        module, side = key.removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + module.replace(".", "_")
        tensors[f"{name}.lora_{'down' if side == 'lora_A' else 'up'}.weight"] = value.half().contiguous().cpu()
        tensors[f"{name}.alpha"] = torch.tensor(float(rank), dtype=torch.float16)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata={"format": "pt"})
