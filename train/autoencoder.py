"""Stage 1: a TAESD-architecture autoencoder (Boer Bohan, github.com/madebyollin/taesd) for the pictures."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from PIL import Image

from . import pictures
from .resuming import resumable_steps

CROP = 64
BATCH = 4
LEARNING_RATE = 1e-3
SEEN = 10_000_000  # the decoder's second training draws its crops from here on
LATENT_NOISE = 0.06  # the decoder sees latents as a sampler leaves them: slightly wrong


def as_tensor(images) -> torch.Tensor:
    """[B, 3, H, W] in -1..1."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_images(pixels: torch.Tensor) -> list[Image.Image]:
    """The inverse of `as_tensor`."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


def crops(step: int, scenes, batch: int = BATCH) -> torch.Tensor:
    """[batch, 3, CROP, CROP] cut from pictures that no other step sees."""
    rng = np.random.default_rng(step)
    cut = []
    for i in range(batch):
        _, image = pictures.sample(step * batch + i, scenes)
        x, y = rng.integers(0, pictures.SIZE - CROP + 1, 2)
        cut.append(image.crop((x, y, x + CROP, y + CROP)))
    return as_tensor(cut)


def reconstruction_loss(out, target):
    """L1, half the squared error, and half the error of the gradients at three scales (edges are the style here)."""
    loss = F.l1_loss(out, target) + 0.5 * F.mse_loss(out, target)
    for _ in range(3):
        for dim in (2, 3):
            loss = loss + 0.5 / 3 * F.l1_loss(out.diff(dim=dim), target.diff(dim=dim))
        out, target = F.avg_pool2d(out, 2), F.avg_pool2d(target, 2)
    return loss


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/autoencoder (a diffusers folder) and returns the loss of every step."""
    accelerator = Accelerator()
    set_seed(seed)
    scenes, _ = pictures.split()
    vae = AutoencoderTiny()
    ema = EMAModel(vae.parameters(), decay=0.995, use_ema_warmup=False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(30, steps // 5), steps)
    vae, optimizer, schedule = accelerator.prepare(vae, optimizer, schedule)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema)
    model = accelerator.unwrap_model(vae)
    losses = []
    for step in resumable_steps(accelerator, work / "autoencoder-training", steps, every=100):
        target = crops(step, scenes).to(accelerator.device)
        latents = model.encoder(target)
        moments = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        out = model.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        loss = reconstruction_loss(out, target) + 0.05 * moments
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(vae.parameters())
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}, latent std {latents.std():.3f}", flush=True)
            grid(as_images(torch.cat([target, out.detach()])), CROP).save(work / "autoencoder.png")
    ema.copy_to(vae.parameters())
    model.save_pretrained(work / "autoencoder")
    return losses


def refine_decoder(work: Path, steps: int, seed: int = 1) -> list[float]:
    """Trains only the decoder of work/autoencoder on, into work/autoencoder-refined, and returns every step's loss.

    The encoder stands still, so latents made with it, and a UNet trained on them, stay valid.
    """
    accelerator = Accelerator()
    set_seed(seed)
    scenes, _ = pictures.split()
    vae = AutoencoderTiny.from_pretrained(work / "autoencoder").to(accelerator.device)
    vae.encoder.requires_grad_(False)
    decoder = vae.decoder
    ema = EMAModel(decoder.parameters(), decay=0.995, use_ema_warmup=False)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(30, steps // 5), steps)
    decoder, optimizer, schedule = accelerator.prepare(decoder, optimizer, schedule)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema)
    losses = []
    for step in resumable_steps(accelerator, work / "decoder-training", steps, every=100):
        target = crops(step + SEEN, scenes).to(accelerator.device)
        with torch.no_grad():
            latents = vae.encoder(target)
        loss = reconstruction_loss(decoder(latents + LATENT_NOISE * torch.randn_like(latents)), target)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(decoder.parameters())
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}", flush=True)
    ema.copy_to(decoder.parameters())
    vae.save_pretrained(work / "autoencoder-refined")
    return losses


def grid(images, size: int, columns: int = 8) -> Image.Image:
    """The images side by side, `columns` to a row."""
    sheet = Image.new("RGB", (size * min(columns, len(images)), size * -(-len(images) // columns)))
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * size, i // columns * size))
    return sheet
