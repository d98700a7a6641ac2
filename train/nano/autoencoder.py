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
SIDES_PIXELS = (128, 192, 256, 320)
LEARNING_RATE = 1e-3
MATRIX_LEARNING_RATE = 5e-3
EMA_DECAY = 0.995
NARROW_CHANNELS = 32  # until it is sharpened: a quarter of TAESD's arithmetic
COLOUR_LOSS_FRACTION = 0.1  # of the steps, in which three latent channels are pulled to a cell's mean colour
SQUARED_ERROR_WEIGHT = 6.0  # with it about as large as the other parts of the loss
TAESD_CHANNELS = 64  # which is what ComfyUI builds
# The decoder is given latents as a sampler leaves them: slightly wrong. With less noise they hold finer detail.
LATENT_NOISE, SHARP_LATENT_NOISE = 0.06, 0.04
DOWNSCALED_SHARE = 0.25


def build(channels: int) -> AutoencoderTiny:
    return AutoencoderTiny(encoder_block_out_channels=(channels,) * 4, decoder_block_out_channels=(channels,) * 4)


def to_device(vae: AutoencoderTiny) -> AutoencoderTiny:
    # A CPU with bfloat16 takes half as long with this layout.
    return vae.to(default_device(), memory_format=torch.channels_last)


def encode(vae: AutoencoderTiny, pixels: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in -1..1 -> [B, 4, H/8, W/8] in float32, under autocast too."""
    return vae.encoder(pixels.to(vae.device, memory_format=torch.channels_last)).float()


def decode(vae: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode`."""
    return vae.decoder(latents.contiguous(memory_format=torch.channels_last)).float()


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
    """L1, SQUARED_ERROR_WEIGHT of the squared error, and half the error of the gradients at three scales.

    The gradients are there because edges are the style of these pictures.
    """
    loss = F.l1_loss(out, target) + SQUARED_ERROR_WEIGHT * F.mse_loss(out, target)
    for _ in range(3):
        for dim in (2, 3):
            loss = loss + 0.5 / 3 * F.l1_loss(out.diff(dim=dim), target.diff(dim=dim))
        out, target = F.avg_pool2d(out, 2), F.avg_pool2d(target, 2)
    return loss


def augment(latents, target, rng, downscaled_share):
    """Both mirrored half of the time, and downscaled in a share of the calls.

    A decoder that is equivariant to that makes the latents smooth and a mirrored latent the latent of the mirrored picture,
    which diffusion learns faster from (EQ-VAE, Kouzelis et al. 2025, arXiv 2502.09509).
    """
    if rng.random() < 0.5:
        latents, target = latents.flip(-1), target.flip(-1)
    if rng.random() < downscaled_share:
        cells = int(rng.integers(4, 7))
        latents = F.interpolate(latents, size=(cells, cells), mode="bilinear", antialias=True)
        target = F.interpolate(target, size=(8 * cells, 8 * cells), mode="area")
    return latents, target


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/autoencoder (a diffusers folder, NARROW_CHANNELS) and returns the loss of every step."""
    set_seed(seed)
    vae = to_device(build(NARROW_CHANNELS))

    def compute_loss(step):
        target = random_crops(step).to(vae.device)
        rng = np.random.default_rng([step, 1])
        latents, loss = encode_and_compare(vae, target, rng, LATENT_NOISE, DOWNSCALED_SHARE)
        cell_colours = 2 * F.avg_pool2d(target, 8)
        colours = (latents[:, :3] - cell_colours).square().mean() * max(0.0, 1 - step / (COLOUR_LOSS_FRACTION * steps))
        return loss + colours

    lr_lambda = constant_then_cosine(steps, constant=0.3)
    return train_vae(vae, compute_loss, MATRIX_LEARNING_RATE, lr_lambda, work, "autoencoder", steps)


def sharpen(work: Path, steps: int, seed: int = 1) -> list[float]:
    """Continues work/autoencoder, with all of TAESD's channels, into work/autoencoder-sharp.

    Returns the loss of every step.
    """
    set_seed(seed)
    vae = to_device(widen(AutoencoderTiny.from_pretrained(work / "autoencoder")))

    def compute_loss(step):
        target = random_crops(step + seeds.SHARPENING).to(vae.device)
        return encode_and_compare(vae, target, np.random.default_rng([step, 2]), SHARP_LATENT_NOISE, 0)[1]

    lr_lambda = constant_then_cosine(steps)
    return train_vae(vae, compute_loss, MATRIX_LEARNING_RATE / 2, lr_lambda, work, "autoencoder-sharp", steps)


def encode_and_compare(
    vae: AutoencoderTiny, target: torch.Tensor, rng: np.random.Generator, noise: float, downscaled_share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the latents of target, the loss of what the decoder makes of them)."""
    latents = encode(vae, target)
    moments = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
    noisy, target = augment(latents, target, rng, downscaled_share)
    out = decode(vae, noisy + noise * torch.randn_like(noisy))
    return latents, reconstruction_loss(out, target) + 0.05 * moments


def train_vae(
    vae: AutoencoderTiny, compute_loss: Callable, matrix_lr: float, lr_lambda: Callable, work: Path, name: str, steps: int
) -> list[float]:
    """Trains vae into the folder work/name, with a sheet beside it, work/name.png; returns the loss of every step."""
    log_samples = reconstruction_sheet(vae, work / f"{name}.png")
    optimizer, folder = Muon(vae, matrix_lr, LEARNING_RATE), work / f"{name}-training"
    losses = training_loop.train(vae, compute_loss, optimizer, lr_lambda, folder, steps, EMA_DECAY, log_samples)
    with atomic_write(work / name) as folder:
        vae.save_pretrained(folder)
    return losses


def reconstruction_sheet(vae: AutoencoderTiny, file: Path) -> Callable[[], None]:
    """A function that writes a sheet of fixed crops above their reconstructions, and prints the PSNR between the two."""
    shown = random_crops(2 * seeds.SHARPENING).to(vae.device)

    def draw():
        out = decode(vae, encode(vae, shown))
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
