"""Sheets for people to look at: training pictures, and what a UNet draws for fixed prompts while it trains."""

import random
import textwrap
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler
from PIL import Image, ImageDraw, ImageFont

from ..diffusion import NOISE_SCHEDULE, predict_noise
from ..images import make_grid, to_pil
from ..text_encoding import tokenize
from . import render
from .captions import caption
from .scenes import split

TRAINING_PICTURES, COLUMNS = 32, 4
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


def write_contact_sheet(file: Path) -> None:
    """The first TRAINING_PICTURES, each beside a caption of it."""
    training, _ = split()
    side, font = render.SIZE, ImageFont.load_default(13)
    page = Image.new("RGB", (2 * side * COLUMNS, side * -(-TRAINING_PICTURES // COLUMNS)), "white")
    draw = ImageDraw.Draw(page)
    for i in range(TRAINING_PICTURES):
        scene, image = render.sample(i, training)
        x, y = i % COLUMNS * 2 * side, i // COLUMNS * side
        page.paste(image, (x, y))
        draw.multiline_text((x + side + 6, y + 6), textwrap.fill(caption(scene, random.Random(i)), 34), "black", font)
    page.save(file)
    print(f"see {file}")


def write_sample_sheet(
    file: Path, unet, encoders, tokenizers, scheduler: type = DDIMScheduler, steps: int = 12, guidance: float = 3.0
) -> None:
    """Writes the sheet `file`: PROMPTS as `unet` draws them now, decoded by the autoencoder in the same folder."""
    vae = AutoencoderTiny.from_pretrained(file.parent / "autoencoder-sharp").to(unet.device)
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
