"""Stage 1b: sharpens the decoder alone, on latents that stay as the base model learns them.

The encoder needs few steps, a crisp decoder many, and neither the base nor the LCM-LoRA depends on the decoder; so
this stage may run beside them (as TAESD's own decoder is trained against a frozen encoder).
"""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from . import pictures
from .autoencoder import as_images, as_tensor, grid, reconstruction_loss
from .resuming import resumable_steps

CROP = 8  # in latent pixels; the picture's crop is eight times as wide
BATCH = 4
LEARNING_RATE = 1e-3
LATENT_NOISE = 0.05  # a sampler leaves latents slightly wrong


def crops(step: int, latents: torch.Tensor, scenes, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """([batch, 4, CROP, CROP] latents, [batch, 3, 8 CROP, 8 CROP] pixels) of one step; a function of its number."""
    rng = np.random.default_rng([step, 1])
    codes, images = [], []
    for index in rng.integers(0, len(latents), batch):
        x, y = rng.integers(0, latents.shape[-1] - CROP + 1, 2)
        codes.append(latents[index, :, y : y + CROP, x : x + CROP])
        _, image = pictures.sample(int(index), scenes)
        images.append(image.crop((8 * x, 8 * y, 8 * (x + CROP), 8 * (y + CROP))))
    return torch.stack(codes), as_tensor(images)


def train(work: Path, latents: torch.Tensor, steps: int, seed: int = 0) -> list[float]:
    """Replaces the decoder in work/autoencoder, touches work/decoder-done, and returns the loss of every step.

    latents are the encoder's, of pictures 0, 1, 2... of the training scenes.
    """
    accelerator = Accelerator()
    set_seed(seed)
    scenes, _ = pictures.split()
    vae = AutoencoderTiny.from_pretrained(work / "autoencoder")
    decoder = vae.decoder
    ema = EMAModel(decoder.parameters(), decay=0.998)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(50, steps // 5), steps)
    decoder, optimizer, schedule = accelerator.prepare(decoder, optimizer, schedule)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema)
    losses = []
    for step in resumable_steps(accelerator, work / "decoder-training", steps, every=200):
        codes, target = (x.to(accelerator.device) for x in crops(step, latents, scenes))
        out = decoder(codes + LATENT_NOISE * torch.randn_like(codes))
        loss = reconstruction_loss(out, target)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(decoder.parameters())
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}", flush=True)
            grid(as_images(torch.cat([target, out.detach()])), 8 * CROP).save(work / "decoder.png")
    ema.copy_to(decoder.parameters())
    vae.decoder = accelerator.unwrap_model(decoder)
    vae.save_pretrained(work / "autoencoder")
    (work / "decoder-done").touch()
    return losses
