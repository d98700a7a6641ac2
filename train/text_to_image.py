"""Stage 3: the base model, a latent diffusion UNet of Vega's shape."""

from pathlib import Path
from typing import NamedTuple

import torch
from accelerate.utils import set_seed
from diffusers import AutoencoderTiny, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import compute_snr

from . import pictures, text_encoders
from .autoencoder import as_images, device, grid
from .fitting import fit, flat_then_cosine, whole
from .latents import Batches
from .muon import Muon

BATCH = 48
LEARNING_RATE = 1e-3
MATRIX_LEARNING_RATE = 2e-3
SMALL = 1500  # so many steps, and at most half of all, see small pictures only at first: they cost half as much
SEEN = 10**8  # batches of a second training are numbered from here on
SNR_CAP = 5.0  # min-SNR weighting, Hang et al. 2023 (arXiv 2303.09556)
# The schedule of Segmind-Vega, and of SDXL.
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


SHAPE = dict(
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


def build(**larger) -> UNet2DConditionModel:
    """Vega's block structure at 6.7 M parameters, inside what ComfyUI's own UNet class takes."""
    return ready(UNet2DConditionModel(**{**SHAPE, **larger}))


def load(folder: Path) -> UNet2DConditionModel:
    """A UNet of any family, as this machine trains it best."""
    return ready(UNet2DConditionModel.from_pretrained(folder))


def ready(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    unet = unet.to(device())
    if unet.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # measured faster than fused attention there
    return unet


def predicted(unet, x: torch.Tensor, t: torch.Tensor, text: tuple[torch.Tensor, torch.Tensor], sizes: torch.Tensor):
    """The noise [B, 4, h, w] that an SDXL UNet sees in x, given (context, pooled text) and [B, 6] size ids."""
    context, pooled = text
    return unet(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample


def evenly(count: int) -> torch.Tensor:
    """[count] random numbers in 0..1, one in each of `count` equal parts, so that batches are alike."""
    return (torch.arange(count) + torch.rand(())) / count % 1


def noise_levels(count: int) -> torch.Tensor:
    """[count] timesteps spread evenly over the schedule, a little denser at high noise, where pictures are decided."""
    return (1000 * evenly(count) ** 0.75).long().clamp(max=999)


def weight(snr: torch.Tensor) -> torch.Tensor:
    """Min-SNR weights, raised where noise prevails: there a small error in the noise is a large one in the picture."""
    return snr.clamp(max=SNR_CAP) / snr * snr.clamp(max=1) ** -0.25


class Question(NamedTuple):
    """What a UNet is asked, and the noise that it should answer; `weight` is that of each picture in the loss."""

    noisy: torch.Tensor
    t: torch.Tensor
    text: tuple[torch.Tensor, torch.Tensor]
    sizes: torch.Tensor
    noise: torch.Tensor
    weight: torch.Tensor

    def put_to(self, unet) -> torch.Tensor:
        return predicted(unet, self.noisy, self.t, self.text, self.sizes)

    def error(self, out: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return ((out - truth).square().mean((1, 2, 3)) * self.weight).mean()

    def loss(self, unet) -> torch.Tensor:
        return self.error(self.put_to(unet), self.noise)


class Examiner:
    """Makes the question of a step: latents and captions by the step's number, noise by torch's generator.

    What else is asked for by name (`small`, `careless`) goes to the batches.
    """

    def __init__(self, work: Path, batches: Batches):
        self.batches, self.encoders = batches, text_encoders.load(work)
        self.diffusion = DDPMScheduler(**NOISE)

    def __call__(self, step: int, **kind) -> Question:
        clean, ids, sizes = self.batches(step, BATCH, **kind)
        noise = torch.randn(clean.shape).to(device())
        t = noise_levels(len(clean)).to(device())
        with torch.no_grad():
            text = self.encoders([i.to(device()) for i in ids])
        noisy = self.diffusion.add_noise(clean.to(device()), noise, t)
        return Question(noisy, t, text, sizes.to(device()), noise, weight(compute_snr(self.diffusion, t)))


def train(work: Path, batches: Batches, steps: int, seed: int = 0) -> list[float]:
    """Trains work/base from nothing and returns the loss of every step.

    The learning rate stays up: what goes on from here, and in which way, brings it down. It also changes to careless
    captions, which are what makes guidance matter, here as in models that learned from the web: without guidance the
    picture is as unsure as its caption may be wrong.
    """
    set_seed(seed)
    unet, ask = build(), Examiner(work, batches)

    def loss_of(step):
        return ask(step, small=step < min(SMALL, steps // 2)).loss(unet)

    return fit_unet(unet, loss_of, work, "base", ask, steps, flat_then_cosine(steps, flat=1.0))


def train_on(work: Path, batches: Batches, steps: int, seed: int = 1) -> list[float]:
    """Trains work/base on, into work/direct, with a falling learning rate; returns the loss of every step."""
    set_seed(seed)
    unet, ask = load(work / "base"), Examiner(work, batches)

    def loss_of(step):
        return ask(SEEN + step, careless=True).loss(unet)

    return fit_unet(unet, loss_of, work, "direct", ask, steps, flat_then_cosine(steps))


def fit_unet(unet, loss_of, work: Path, name: str, ask: Examiner, steps: int, factor) -> list[float]:
    """Trains `unet` into the folder work/name; a sheet of samples lies beside it all the while."""

    def sample():
        show(work / f"{name}.png", unet, ask.encoders, ask.batches.tokenizers)

    optimizer = Muon(unet, MATRIX_LEARNING_RATE, LEARNING_RATE, weight_decay=0.01)
    losses = fit(unet, loss_of, optimizer, factor, work / f"{name}-training", steps, ema_decay=0.998, sample=sample)
    with whole(work / name) as folder:
        unet.save_pretrained(folder)
    return losses


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


def show(file: Path, unet, encoders, tokenizers, scheduler: type = DDIMScheduler, steps: int = 12, guidance: float = 3.0):
    """Writes the sheet `file`: PROMPTS as `unet` draws them now, decoded by the autoencoder beside it."""
    vae = AutoencoderTiny.from_pretrained(file.parent / "autoencoder").to(unet.device)
    scheduler = scheduler(**NOISE, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    texts = [*PROMPTS, *[""] * len(PROMPTS)]
    text = encoders([i.to(unet.device) for i in text_encoders.tokenize(tokenizers, texts)])
    side = pictures.SIZE
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(texts), device=unet.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(PROMPTS), 4, side // 8, side // 8, generator=generator).to(unet.device)
    for t in scheduler.timesteps:
        conditional, unconditional = predicted(unet, torch.cat([x, x]), t, text, sizes).chunk(2)
        guided = unconditional + guidance * (conditional - unconditional)
        x = scheduler.step(guided, t, x, generator=generator).prev_sample
    grid(as_images(vae.decoder(x)), side).save(file)
