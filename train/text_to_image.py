"""Stage 2: the base model, a latent diffusion UNet of Vega's shape trained together with its text encoders."""

import math
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from . import pictures, text_encoders
from .autoencoder import as_tensor
from .resuming import resumable_steps

BATCH = 32
LEARNING_RATE = 1e-3
SNR_CAP = 5.0  # min-SNR weighting, Hang et al. 2023
NULL_CAPTIONS = 0.1
# The schedule of Segmind-Vega, and of SDXL.
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def build_unet() -> UNet2DConditionModel:
    """Vega's block structure at 6.7 M parameters, inside what ComfyUI's own UNet class takes."""
    unet = UNet2DConditionModel(
        sample_size=pictures.SIZE // 8,
        block_out_channels=(64, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2D",
        layers_per_block=2,
        transformer_layers_per_block=[1, 1, 1],
        attention_head_dim=[1, 1, 2],
        cross_attention_dim=2 * text_encoders.HIDDEN,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + text_encoders.HIDDEN,
    )
    if not torch.cuda.is_available():
        unet.set_attn_processor(AttnProcessor())  # measured faster than fused attention on a CPU
    return unet


class TextToImage(nn.Module):
    """The UNet and both text encoders as one module, so that one optimizer and one checkpoint hold them."""

    def __init__(self):
        super().__init__()
        self.unet = build_unet()
        self.first, self.second = text_encoders.build()

    def forward(self, noisy, t, ids, time_ids):
        context, pooled = text_encoders.encode((self.first, self.second), ids)
        return self.unet(noisy, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}).sample


def encode_pictures(work: Path, count: int) -> torch.Tensor:
    """[count, 4, 16, 16] latents of the first `count` training pictures, kept in work/latents.safetensors."""
    file = work / "latents.safetensors"
    if file.exists() and len(latents := load_file(file)["latents"]) == count:
        return latents
    device = Accelerator().device
    encoder = AutoencoderTiny.from_pretrained(work / "autoencoder").to(device).encoder
    scenes, _ = pictures.split()
    chunks = []
    with torch.no_grad():
        for start in tqdm(range(0, count, 16), desc="latents"):
            images = [pictures.sample(i, scenes)[1] for i in range(start, min(start + 16, count))]
            chunks.append(encoder(as_tensor(images).to(device)).cpu())
    latents = torch.cat(chunks).contiguous()
    save_file({"latents": latents}, file)
    return latents


def time_ids(rng: np.random.Generator, batch: int) -> torch.Tensor:
    """[batch, 6] SDXL size conditioning: mostly the truth; in 30 % a random size, so that other sizes do no harm."""
    true = pictures.SIZE
    rows = np.tile([true, true, 0, 0, true, true], (batch, 1))
    odd = rng.random(batch) < 0.3
    rows[odd] = np.concatenate([s := rng.integers(64, 1025, (odd.sum(), 2)), np.zeros_like(s), s], axis=1)
    return torch.from_numpy(rows)


def batch_of(step: int, size: int, latents, tokenizers):
    """Latents, token ids and size ids of one step; a function of the step number."""
    rng, words = np.random.default_rng(step), random.Random(step)
    scenes, _ = pictures.split()
    picked = rng.integers(0, len(latents), size)
    captions = [pictures.caption(random.Random(int(i)).choice(scenes), words) for i in picked]
    captions = ["" if words.random() < NULL_CAPTIONS else c for c in captions]
    return latents[picked], text_encoders.tokenize(tokenizers, captions), time_ids(rng, size)


def train(work: Path, tokenizer_folder: Path, steps: int, count: int, seed: int = 0) -> list[float]:
    """Trains into work/base (unet, text_encoder, text_encoder_2) and returns the loss of every step."""
    latents = encode_pictures(work, count)
    accelerator = Accelerator()
    set_seed(seed)
    tokenizers = text_encoders.load_tokenizers(tokenizer_folder)
    noise_schedule = DDPMScheduler(**NOISE)
    base = TextToImage()
    known = text_encoders.known_tokens(tokenizers[0])
    for encoder in (base.first, base.second):
        text_encoders.zero_unknown(encoder, known)
        encoder.get_input_embeddings().weight.register_hook(keep_rows(known))
    ema = EMAModel(base.parameters(), decay=0.998, use_ema_warmup=False)
    tables = [e.get_input_embeddings().weight for e in (base.first, base.second)]
    others = [p for p in base.parameters() if all(p is not t for t in tables)]
    groups = [{"params": others, "weight_decay": 0.01}, {"params": tables, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, flat_then_cosine(max(1, min(60, steps // 5)), 0.4, steps))
    base, optimizer, schedule = accelerator.prepare(base, optimizer, schedule)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema)
    losses = []
    for step in resumable_steps(accelerator, work / "base-training", steps, every=200):
        clean, ids, sizes = batch_of(step, BATCH, latents, tokenizers)
        clean = clean.to(accelerator.device)
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (len(clean),), device=clean.device)
        noisy = noise_schedule.add_noise(clean, noise, t)
        ids = [i.to(clean.device) for i in ids]
        error = F.mse_loss(base(noisy, t, ids, sizes.to(clean.device)), noise, reduction="none").mean((1, 2, 3))
        snr = compute_snr(noise_schedule, t)
        loss = (error * snr.clamp(max=SNR_CAP) / snr).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(base.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(base.parameters())
        losses.append(error.mean().item())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: mse {np.mean(losses[-100:]):.4f}", flush=True)
    ema.copy_to(base.parameters())
    model = accelerator.unwrap_model(base)
    model.unet.set_default_attn_processor()
    model.unet.save_pretrained(work / "base" / "unet")
    model.first.save_pretrained(work / "base" / "text_encoder")
    model.second.save_pretrained(work / "base" / "text_encoder_2")
    return losses


def flat_then_cosine(warm_up: int, flat: float, total: int):
    """Learning rate factor by step: up over `warm_up` steps, level until the `flat` part is over, cosine down to zero."""
    bend = max(warm_up, int(flat * total))

    def factor(step):
        if step < bend:
            return min(1.0, (step + 1) / warm_up)
        return 0.5 + 0.5 * math.cos(math.pi * (step - bend) / max(1, total - bend))

    return factor


def keep_rows(rows: torch.Tensor):
    """A gradient hook that lets only these rows of a table change."""

    def hook(gradient):
        kept = torch.zeros_like(gradient)
        kept[rows] = gradient[rows]
        return kept

    return hook
