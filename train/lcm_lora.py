"""Stage 4: an LCM-LoRA for any SDXL-family checkpoint, by latent consistency distillation.

Luo et al. 2023, "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module" (arXiv 2311.05556), after
"Latent Consistency Models" (arXiv 2310.04378): a guided teacher goes down by DDIM, and from every point of its way the
student must predict the clean latent that it predicts from the end of it. The way has several steps, as in Kim et al.
2023, "Consistency Trajectory Models" (arXiv 2310.02279): the fewer ways lie between a timestep and the clean latent, the
less do the student's own errors add up.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import set_seed
from diffusers import DDPMScheduler
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from . import text_encoders
from .fitting import fit, flat_then_cosine, whole
from .text_to_image import NOISE, evenly, load

BATCH = 24  # points, WAY of them on the way of one picture
LEARNING_RATE = 1e-3
# The range of w; the guidance scale is 1 + w. On 256 prompts a perfect student would come closest at w = 3 (distance 15.7,
# at 4 20.2); this range is what the shipped LoRA was finished with.
GUIDANCE = (3.5, 4.5)
DDIM_STEP = 100  # timesteps that the teacher goes down at once
WAY = 3  # such steps
FROM_NOISE = 4  # one picture in so many starts from pure noise, as every picture that is sampled does
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
HUBER_C = 0.001
EMA_DECAY = 0.98
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
    """The forward process of an epsilon-predicting SDXL checkpoint and one DDIM step of its reverse."""

    def __init__(self, device: torch.device):
        self.alphas_cumprod = DDPMScheduler(**NOISE).alphas_cumprod.to(device)

    def coefficients(self, t):
        a = self.alphas_cumprod[t][:, None, None, None]
        return a.sqrt(), (1 - a).sqrt()

    def noised(self, clean, noise, t):
        a, s = self.coefficients(t)
        return a * clean + s * noise

    def clean(self, noisy, epsilon, t):
        a, s = self.coefficients(t)
        return (noisy - s * epsilon) / a


def starts(count: int) -> torch.Tensor:
    """[count] timesteps to take the teacher's first step from."""
    pure = count // FROM_NOISE
    least = (WAY - 1) * DDIM_STEP  # the last step begins anywhere
    others = (least + (1000 - least) * evenly(count - pure)).long().clamp(max=999)
    return torch.cat([torch.full((pure,), 999), others])


def distil(
    folder: Path, out: Path, batch_of: Callable, steps: int, work: Path, seed: int = 0, rank: int = RANK
) -> list[float]:
    """Distils folder's UNet into the LoRA file `out` and returns the loss of every step.

    folder holds a diffusers checkpoint (unet, text_encoder, text_encoder_2); batch_of(step, size) gives the clean
    latents [B, 4, h, w], two [B, 77] token id tensors and the [B, 6] size ids of a step.
    """
    set_seed(seed)
    unet = load(folder / "unet").requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
    encoders = text_encoders.load(folder)
    diffusion = Diffusion(unet.device)

    def loss_of(step):
        clean, ids, sizes = batch_of(step, BATCH // WAY)
        clean, sizes = clean.to(unet.device), sizes.to(unet.device)
        ids = [i.to(unet.device) for i in ids]
        with torch.no_grad():
            conditional = encoders(ids)
            null = encoders(batch_null(ids))
        noise = torch.randn(clean.shape).to(unet.device)
        t = starts(len(clean)).to(unet.device)
        w = torch.empty(len(clean), 1, 1, 1).uniform_(*GUIDANCE).to(unet.device)
        x = diffusion.noised(clean, noise, t)

        def predict(x, t, text):
            context, pooled, ids = (part.repeat(len(x) // len(part), *[1] * (part.ndim - 1)) for part in (*text, sizes))
            return unet(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}).sample

        def consistency(x, t):
            c_skip, c_out = (c[:, None, None, None] for c in boundary_scalings(t))
            return c_skip * x + c_out * diffusion.clean(x, predict(x, t, conditional), t)

        points = []
        with torch.no_grad():
            unet.disable_adapters()
            for _ in range(WAY):
                points.append((x, t))
                guided = predict(x, t, conditional)
                guided = guided + w * (guided - predict(x, t, null))
                end = (t - DDIM_STEP).clamp(min=0)
                # One DDIM step (Song et al. 2020, eq. 12) from t to end.
                x, t = diffusion.noised(diffusion.clean(x, guided, t), guided, end), end
            unet.enable_adapters()
            target = consistency(x, t)
        out = consistency(*(torch.cat(part) for part in zip(*points, strict=True)))
        return pseudo_huber(out, target.repeat(WAY, 1, 1, 1))

    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=LEARNING_RATE, weight_decay=1e-3)
    factor = flat_then_cosine(steps)
    losses = fit(unet, loss_of, optimizer, factor, work / "lcm-lora-training", steps, ema_decay=EMA_DECAY)
    save(unet, out, rank)
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
    with whole(out) as file:
        save_file(tensors, file, metadata={"format": "pt"})
