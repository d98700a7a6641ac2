"""A sheet of what a UNet draws for fixed prompts, for people to look at while it trains."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler

from ..diffusion import NOISE_SCHEDULE, predict_noise
from ..images import make_grid, to_pil
from ..text_encoding import tokenize
from . import render

PROMPTS = (
    "a red sunset over snowy mountains with a lake",
    "night, desert, full moon",
    "green hills with a house, blue sky, clouds, sun",
    "a starry night over the ocean with a boat",
    "autumn forest at dawn",
    "midnight over a city with a crescent moon",
    "winter hills with a tree, day",
    "an orange sunset over dunes with a cactus and the sun",
)


def write_sample_sheet(
    file: Path, unet, encoders, tokenizers, scheduler: type = DDIMScheduler, steps: int = 12, guidance: float = 3.0
) -> None:
    """Writes the sheet `file`: PROMPTS as `unet` draws them now, decoded by the autoencoder in the same folder."""
    vae = AutoencoderTiny.from_pretrained(file.parent / "autoencoder").to(unet.device)
    scheduler = scheduler(**NOISE_SCHEDULE, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    texts = [*PROMPTS, *[""] * len(PROMPTS)]
    text = encoders([i.to(unet.device) for i in tokenize(tokenizers, texts)])
    side = render.SIZE
    size_ids = torch.tensor([[side, side, 0, 0, side, side]] * len(texts), device=unet.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(PROMPTS), 4, side // 8, side // 8, generator=generator).to(unet.device)
    for t in scheduler.timesteps:
        conditional, unconditional = predict_noise(unet, torch.cat([x, x]), t, text, size_ids).chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        x = scheduler.step(guided, t, x, generator=generator).prev_sample
    make_grid(to_pil(vae.decoder(x)), side).save(file)
