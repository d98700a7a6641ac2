"""Stage 1: a TAESD-architecture autoencoder (Boer Bohan, github.com/madebyollin/taesd) for the pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny

from .. import training_loop
from ..device import default_device
from ..files import atomic_write
from ..images import make_grid, to_pil, to_tensor
from ..muon import Muon
from ..training_loop import constant_then_cosine
from . import render, seeds
from .scenes import split

CROP_PIXELS = 64
BATCH_SIZE = 8
SIDES_PIXELS = (96, 128, 160, 192)
LEARNING_RATE = 1e-3
MATRIX_LEARNING_RATE = 5e-3
EMA_DECAY = 0.995
NARROW_CHANNELS = 32  # until the decoder is refined: a quarter of TAESD's arithmetic
COLOUR_LOSS_FRACTION = 0.1  # of the steps, in which three latent channels are pulled to a cell's mean colour
TAESD_CHANNELS = 64  # which is what ComfyUI builds
LATENT_NOISE = 0.06  # the decoder is given latents as a sampler leaves them: slightly wrong


def build(channels: int) -> AutoencoderTiny:
    return AutoencoderTiny(encoder_block_out_channels=(channels,) * 4, decoder_block_out_channels=(channels,) * 4)


def random_crops(step: int) -> torch.Tensor:
    """[BATCH_SIZE, 3, CROP_PIXELS, CROP_PIXELS], two from each of BATCH_SIZE / 2 pictures that no other step sees."""
    rng = np.random.default_rng(step)
    scenes, _ = split()
    crops = []
    for i in range(BATCH_SIZE // 2):
        width, height = (int(side) for side in rng.choice(SIDES_PIXELS, 2))
        _, image = render.sample(step * BATCH_SIZE + i, scenes, width, height)
        for _ in range(2):
            x, y = rng.integers(0, width - CROP_PIXELS + 1), rng.integers(0, height - CROP_PIXELS + 1)
            crops.append(image.crop((x, y, x + CROP_PIXELS, y + CROP_PIXELS)))
    return to_tensor(crops)


def reconstruction_loss(out, target):
    """L1, half the squared error, and half the error of the gradients at three scales (edges are the style here)."""
    loss = F.l1_loss(out, target) + 0.5 * F.mse_loss(out, target)
    for _ in range(3):
        for dim in (2, 3):
            loss = loss + 0.5 / 3 * F.l1_loss(out.diff(dim=dim), target.diff(dim=dim))
        out, target = F.avg_pool2d(out, 2), F.avg_pool2d(target, 2)
    return loss


def augment(latents, target, rng):
    """Both mirrored half of the time, and downscaled a quarter of the time.

    A decoder that is equivariant to that makes the latents smooth and a mirrored latent the latent of the mirrored picture,
    which diffusion learns faster from (EQ-VAE, Kouzelis et al. 2025, arXiv 2502.09509).
    """
    if rng.random() < 0.5:
        latents, target = latents.flip(-1), target.flip(-1)
    if rng.random() < 0.25:
        cells = int(rng.integers(4, 7))
        latents = F.interpolate(latents, size=(cells, cells), mode="bilinear", antialias=True)
        target = F.interpolate(target, size=(8 * cells, 8 * cells), mode="area")
    return latents, target


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/autoencoder (a diffusers folder, NARROW_CHANNELS) and returns the loss of every step."""
    set_seed(seed)
    vae = build(NARROW_CHANNELS).to(default_device())

    def compute_loss(step):
        target = random_crops(step).to(vae.device)
        cell_colours = 2 * F.avg_pool2d(target, 8)
        latents = vae.encoder(target)
        moments = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        noisy, target = augment(latents, target, np.random.default_rng([step, 1]))
        out = vae.decoder(noisy + LATENT_NOISE * torch.randn_like(noisy))
        colours = (latents[:, :3] - cell_colours).square().mean() * max(0.0, 1 - step / (COLOUR_LOSS_FRACTION * steps))
        return reconstruction_loss(out, target) + 0.05 * moments + colours

    log_samples = reconstruction_sheet(vae, work / "autoencoder.png")
    optimizer = Muon(vae, MATRIX_LEARNING_RATE, LEARNING_RATE)
    lr_lambda = constant_then_cosine(steps, constant=0.3)
    folder = work / "autoencoder-training"
    losses = training_loop.train(vae, compute_loss, optimizer, lr_lambda, folder, steps, EMA_DECAY, log_samples)
    with atomic_write(work / "autoencoder") as folder:
        vae.save_pretrained(folder)
    return losses


def reconstruction_sheet(vae: AutoencoderTiny, file: Path) -> Callable[[], None]:
    """A function that writes a sheet of fixed crops above their reconstructions, and prints the PSNR between the two."""
    shown = random_crops(2 * seeds.DECODER_REFINEMENT).to(vae.device)

    def draw():
        out = vae.decoder(vae.encoder(shown))
        error = F.mse_loss(out.clamp(-1, 1), shown).item()
        print(f"PSNR of {len(shown)} crops {10 * np.log10(4 / error):.2f} dB", flush=True)
        make_grid(to_pil(torch.cat([shown, out])), CROP_PIXELS).save(file)

    return draw


def widen(narrow_vae: AutoencoderTiny) -> AutoencoderTiny:
    """The same function with TAESD's channel count: the added channels feed into zero weights until training changes those
    (Net2Net, Chen et al. 2015, arXiv 1511.05641)."""
    wide = build(TAESD_CHANNELS)
    narrow = narrow_vae.state_dict()
    state = wide.state_dict()
    for key, value in state.items():
        value[: len(narrow[key])] = 0
        value[tuple(slice(n) for n in narrow[key].shape)] = narrow[key]
    wide.load_state_dict(state)
    return wide


def refine_decoder(work: Path, steps: int, seed: int = 1) -> list[float]:
    """Continues the decoder of work/autoencoder, with all of TAESD's channels, into work/autoencoder-refined; returns the
    loss of every step.

    The encoder is frozen, so latents made with it, and a UNet trained on them, stay valid.
    """
    set_seed(seed)
    vae = widen(AutoencoderTiny.from_pretrained(work / "autoencoder")).to(default_device())
    vae.encoder.requires_grad_(False)

    def compute_loss(step):
        target = random_crops(step + seeds.DECODER_REFINEMENT).to(vae.device)
        with torch.no_grad():
            latents = vae.encoder(target)
        return reconstruction_loss(vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents)), target)

    optimizer = Muon(vae.decoder, MATRIX_LEARNING_RATE / 2, LEARNING_RATE)
    lr_lambda, log_samples = constant_then_cosine(steps), reconstruction_sheet(vae, work / "decoder.png")
    folder = work / "decoder-training"
    losses = training_loop.train(vae.decoder, compute_loss, optimizer, lr_lambda, folder, steps, EMA_DECAY, log_samples)
    with atomic_write(work / "autoencoder-refined") as folder:
        vae.save_pretrained(folder)
    return losses
