"""Stage 3: the base model, a latent diffusion UNet of Vega's shape."""

from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr

from .. import training_loop
from ..device import default_device
from ..diffusion import NOISE_SCHEDULE, load_unet, loss_weight, predict_noise, prepare_for_device, stratified_timesteps
from ..files import atomic_write
from ..muon import Muon
from ..text_encoding import load_encoders
from ..training_loop import constant_then_cosine
from . import render, seeds, text_encoders
from .latents import LatentBatches
from .sample_sheet import write_sample_sheet

BATCH_SIZE = 24
LEARNING_RATE = 1e-3
MATRIX_LEARNING_RATE = 2e-3
LOW_RES_STEPS = 1500  # the first ones, at most half of all, use small pictures only: they cost half as much
# Of each channel's mean, which a thousand latents else show through the most noise: a model that reads a picture's
# brightness there trusts it more than its prompt, and in pure noise there is none to read (Guttenberg 2023, "Diffusion
# with offset noise").
OFFSET_NOISE = 0.1
EMA_DECAY = 0.998
WEIGHT_DECAY = 0.01


UNET_CONFIG = dict(
    sample_size=render.SIZE // 8,
    block_out_channels=(64, 64, 128),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    mid_block_type="UNetMidBlock2D",
    layers_per_block=2,
    transformer_layers_per_block=[1, 1, 1],
    attention_head_dim=[1, 1, 2],
    cross_attention_dim=2 * text_encoders.HIDDEN_SIZE,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=6 * 256 + text_encoders.HIDDEN_SIZE,
)


def build(**changes) -> UNet2DConditionModel:
    """Vega's block structure at 6.7 M parameters, inside what ComfyUI's own UNet class takes."""
    return prepare_for_device(UNet2DConditionModel(**{**UNET_CONFIG, **changes}))


class DiffusionBatch(NamedTuple):
    """Noised latents with their conditioning, the noise to predict, and the weight of each picture in the loss."""

    noisy: torch.Tensor
    t: torch.Tensor
    text: tuple[torch.Tensor, torch.Tensor]
    size_ids: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor

    def predict(self, unet) -> torch.Tensor:
        return predict_noise(unet, self.noisy, self.t, self.text, self.size_ids)

    def weighted_mse(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((prediction - target).square().mean((1, 2, 3)) * self.weight).mean()

    def loss(self, unet) -> torch.Tensor:
        return self.weighted_mse(self.predict(unet), self.noise)


class BatchBuilder:
    """Makes the batch of a step: latents and captions by the step number, noise by torch's generator.

    Other keyword arguments (`low_resolution`, `noisy_captions`) go to the LatentBatches.
    """

    def __init__(self, work: Path, batches: LatentBatches):
        self.batches, self.encoders = batches, load_encoders(work)
        self.scheduler = DDPMScheduler(**NOISE_SCHEDULE)

    def __call__(self, step: int, **options) -> DiffusionBatch:
        clean, ids, size_ids = self.batches(step, BATCH_SIZE, **options)
        device = default_device()
        noise = torch.randn(clean.shape)
        noise = (noise + OFFSET_NOISE * torch.randn(*clean.shape[:2], 1, 1)).to(device)
        t = stratified_timesteps(len(clean)).to(device)
        with torch.no_grad():
            text = self.encoders([i.to(device) for i in ids])
        noisy = self.scheduler.add_noise(clean.to(device), noise, t)
        weight = loss_weight(compute_snr(self.scheduler, t))
        return DiffusionBatch(noisy, t, text, size_ids.to(device), noise, weight)


def train(work: Path, batches: LatentBatches, steps: int, seed: int = 0) -> list[float]:
    """Trains work/base from random weights and returns the loss of every step.

    The learning rate stays constant; the stages that continue from here decay it. They also use noisy captions, which
    make guidance matter, here as in models that learned from the web: without guidance a picture is as uncertain as its
    caption.
    """
    set_seed(seed)
    unet, make_batch = build(), BatchBuilder(work, batches)

    def compute_loss(step):
        return make_batch(step, low_resolution=step < min(LOW_RES_STEPS, steps // 2)).loss(unet)

    return train_unet(unet, compute_loss, work, "base", make_batch, steps, constant_then_cosine(steps, constant=1.0))


def continue_training(work: Path, batches: LatentBatches, steps: int, seed: int = 1) -> list[float]:
    """Continues work/base into work/direct, with a decaying learning rate; returns the loss of every step."""
    set_seed(seed)
    unet, make_batch = load_unet(work / "base"), BatchBuilder(work, batches)

    def compute_loss(step):
        return make_batch(seeds.CONTINUED_TRAINING + step, noisy_captions=True).loss(unet)

    return train_unet(unet, compute_loss, work, "direct", make_batch, steps, constant_then_cosine(steps))


def train_unet(unet, compute_loss, work: Path, name: str, make_batch: BatchBuilder, steps: int, lr_lambda) -> list[float]:
    """Trains `unet` into the folder work/name and keeps a sheet of samples beside it, work/name.png."""

    def log_samples():
        write_sample_sheet(work / f"{name}.png", unet, make_batch.encoders, make_batch.batches.tokenizers)

    optimizer = Muon(unet, MATRIX_LEARNING_RATE, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    folder = work / f"{name}-training"
    losses = training_loop.train(unet, compute_loss, optimizer, lr_lambda, folder, steps, EMA_DECAY, log_samples)
    with atomic_write(work / name) as folder:
        unet.save_pretrained(folder)
    return losses
