"""Stage 1: a TAESD-architecture autoencoder (Boer Bohan, github.com/madebyollin/taesd) for the pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny
from PIL import Image

from . import pictures
from .fitting import fit, flat_then_cosine, whole
from .muon import Muon
from .scenes import split

CROP = 64
BATCH = 8
SIDES = (96, 128, 160, 192)
LEARNING_RATE = 1e-3
MATRIX_LEARNING_RATE = 5e-3
SLIM = 32  # channels until the decoder is refined: a quarter of TAESD's arithmetic
COLOURS = 0.1  # for this share of the steps three latent channels are drawn to a cell's mean colour, as a start
WIDE = 64  # channels of TAESD, which is what hosts build
SEEN = 10_000_000  # the decoder's second training draws its crops from here on
LATENT_NOISE = 0.06  # the decoder sees latents as a sampler leaves them: slightly wrong


def as_tensor(images) -> torch.Tensor:
    """[B, 3, H, W] in -1..1."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_images(pixels: torch.Tensor) -> list[Image.Image]:
    """The inverse of `as_tensor`."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


def build(channels: int) -> AutoencoderTiny:
    return AutoencoderTiny(encoder_block_out_channels=(channels,) * 4, decoder_block_out_channels=(channels,) * 4)


def crops(step: int, batch: int = BATCH) -> torch.Tensor:
    """[batch, 3, CROP, CROP], two from each of batch / 2 pictures of any size that no other step sees."""
    rng = np.random.default_rng(step)
    scenes, _ = split()
    cut = []
    for i in range(-(-batch // 2)):
        width, height = (int(side) for side in rng.choice(SIDES, 2))
        _, image = pictures.sample(step * batch + i, scenes, width, height)
        for _ in range(2):
            x, y = rng.integers(0, width - CROP + 1), rng.integers(0, height - CROP + 1)
            cut.append(image.crop((x, y, x + CROP, y + CROP)))
    return as_tensor(cut[:batch])


def reconstruction_loss(out, target):
    """L1, half the squared error, and half the error of the gradients at three scales (edges are the style here)."""
    loss = F.l1_loss(out, target) + 0.5 * F.mse_loss(out, target)
    for _ in range(3):
        for dim in (2, 3):
            loss = loss + 0.5 / 3 * F.l1_loss(out.diff(dim=dim), target.diff(dim=dim))
        out, target = F.avg_pool2d(out, 2), F.avg_pool2d(target, 2)
    return loss


def transformed(latents, target, rng):
    """Both mirrored half of the time, and made smaller a quarter of the time.

    Asking the decoder to follow makes the latents smooth and a mirrored latent the latent of the mirrored picture, which
    diffusion learns faster from (EQ-VAE, Kouzelis et al. 2025, arXiv 2502.09509).
    """
    if rng.random() < 0.5:
        latents, target = latents.flip(-1), target.flip(-1)
    if rng.random() < 0.25:
        cells = int(rng.integers(4, 7))
        latents = F.interpolate(latents, size=(cells, cells), mode="bilinear", antialias=True)
        target = F.interpolate(target, size=(8 * cells, 8 * cells), mode="area")
    return latents, target


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/autoencoder (a diffusers folder, SLIM channels) and returns the loss of every step."""
    set_seed(seed)
    vae = build(SLIM).to(device())

    def loss_of(step):
        target = crops(step).to(vae.device)
        cell_colours = 2 * F.avg_pool2d(target, 8)
        latents = vae.encoder(target)
        moments = latents.mean((0, 2, 3)).square().mean() + (latents.std((0, 2, 3)) - 1).square().mean()
        noisy, target = transformed(latents, target, np.random.default_rng([step, 1]))
        out = vae.decoder(noisy + LATENT_NOISE * torch.randn_like(noisy))
        colours = (latents[:, :3] - cell_colours).square().mean() * max(0.0, 1 - step / (COLOURS * steps))
        return reconstruction_loss(out, target) + 0.05 * moments + colours

    sample = reconstruction(vae, work / "autoencoder.png")
    optimizer = Muon(vae, MATRIX_LEARNING_RATE, LEARNING_RATE)
    factor = flat_then_cosine(steps, flat=0.3)
    losses = fit(vae, loss_of, optimizer, factor, work / "autoencoder-training", steps, ema_decay=0.995, sample=sample)
    with whole(work / "autoencoder") as folder:
        vae.save_pretrained(folder)
    return losses


def reconstruction(vae: AutoencoderTiny, file: Path) -> Callable[[], None]:
    """Draws the same crops whenever it is called, above what comes back of them, and prints how close that is."""
    shown = crops(2 * SEEN).to(vae.device)

    def draw():
        out = vae.decoder(vae.encoder(shown))
        error = F.mse_loss(out.clamp(-1, 1), shown).item()
        print(f"PSNR of {len(shown)} crops {10 * np.log10(4 / error):.2f} dB", flush=True)
        grid(as_images(torch.cat([shown, out])), CROP).save(file)

    return draw


def widened(slim: AutoencoderTiny) -> AutoencoderTiny:
    """The same function with TAESD's channel count: what the added channels find leads nowhere until training uses it
    (Net2Net, Chen et al. 2015)."""
    wide = build(WIDE)
    narrow = slim.state_dict()
    state = wide.state_dict()
    for key, value in state.items():
        value[: len(narrow[key])] = 0
        value[tuple(slice(n) for n in narrow[key].shape)] = narrow[key]
    wide.load_state_dict(state)
    return wide


def refine_decoder(work: Path, steps: int, seed: int = 1) -> list[float]:
    """Trains the decoder of work/autoencoder on, with all of TAESD's channels, into work/autoencoder-refined, and returns
    every step's loss.

    The encoder stands still, so latents made with it, and a UNet trained on them, stay valid.
    """
    set_seed(seed)
    vae = widened(AutoencoderTiny.from_pretrained(work / "autoencoder")).to(device())
    vae.encoder.requires_grad_(False)

    def loss_of(step):
        target = crops(step + SEEN).to(vae.device)
        with torch.no_grad():
            latents = vae.encoder(target)
        return reconstruction_loss(vae.decoder(latents + LATENT_NOISE * torch.randn_like(latents)), target)

    optimizer = Muon(vae.decoder, MATRIX_LEARNING_RATE / 2, LEARNING_RATE)
    factor, sample = flat_then_cosine(steps), reconstruction(vae, work / "decoder.png")
    losses = fit(vae.decoder, loss_of, optimizer, factor, work / "decoder-training", steps, ema_decay=0.995, sample=sample)
    with whole(work / "autoencoder-refined") as folder:
        vae.save_pretrained(folder)
    return losses


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def grid(images, size: int, columns: int = 8) -> Image.Image:
    """The images side by side, `columns` to a row."""
    sheet = Image.new("RGB", (size * min(columns, len(images)), size * -(-len(images) // columns)))
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * size, i // columns * size))
    return sheet
