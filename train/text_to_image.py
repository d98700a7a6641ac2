"""Stage 3: the base model, a latent diffusion UNet of Vega's shape."""

from pathlib import Path

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
FLAT = 0.7  # the share of the steps at full learning rate; a longer run can go on from any state within it
SNR_CAP = 5.0  # min-SNR weighting, Hang et al. 2023 (arXiv 2303.09556)
# The schedule of Segmind-Vega, and of SDXL.
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def build() -> UNet2DConditionModel:
    """Vega's block structure at 6.7 M parameters, inside what ComfyUI's own UNet class takes."""
    return UNet2DConditionModel(
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


def noise_levels(count: int) -> torch.Tensor:
    """[count] timesteps spread evenly over the schedule, a little denser at high noise, where pictures are decided."""
    u = (torch.arange(count) + torch.rand(())) / count % 1
    return (1000 * u**0.75).long().clamp(max=999)


def weight(snr: torch.Tensor) -> torch.Tensor:
    """Min-SNR weights, raised where noise prevails: there a small error in the noise is a large one in the picture."""
    return snr.clamp(max=SNR_CAP) / snr * snr.clamp(max=1) ** -0.25


def train(work: Path, batches: Batches, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/unet and returns the loss of every step."""
    set_seed(seed)
    unet = build().to(device())
    if unet.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # measured faster than fused attention there
    encoders = text_encoders.load(work)
    diffusion = DDPMScheduler(**NOISE)

    def loss_of(step):
        clean, ids, sizes = batches(step, BATCH, small=step < min(SMALL, steps // 2))
        clean, sizes = clean.to(unet.device), sizes.to(unet.device)
        with torch.no_grad():
            context, pooled = encoders([i.to(unet.device) for i in ids])
        noise = torch.randn(clean.shape).to(unet.device)
        t = noise_levels(len(clean)).to(unet.device)
        noisy = diffusion.add_noise(clean, noise, t)
        out = unet(noisy, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        return ((out - noise).square().mean((1, 2, 3)) * weight(compute_snr(diffusion, t))).mean()

    def sample():
        grid(draw(work, unet, encoders, batches), pictures.SIZE).save(work / "base.png")

    optimizer = Muon(unet, MATRIX_LEARNING_RATE, LEARNING_RATE, weight_decay=0.01)
    factor = flat_then_cosine(steps, FLAT)
    losses = fit(unet, loss_of, optimizer, factor, work / "base-training", steps, ema_decay=0.998, sample=sample)
    unet.set_default_attn_processor()
    with whole(work / "unet") as folder:
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


def draw(work: Path, unet, encoders, batches: Batches, steps: int = 12, guidance: float = 3.0):
    """PROMPTS as the model draws them now, by DDIM with guidance."""
    vae = AutoencoderTiny.from_pretrained(work / "autoencoder").to(unet.device)
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    texts = [*PROMPTS, *[""] * len(PROMPTS)]
    context, pooled = encoders([i.to(unet.device) for i in text_encoders.tokenize(batches.tokenizers, texts)])
    side = pictures.SIZE
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(texts), device=unet.device)
    x = torch.randn(len(PROMPTS), 4, side // 8, side // 8, generator=torch.Generator().manual_seed(0)).to(unet.device)
    for t in scheduler.timesteps:
        kwargs = {"text_embeds": pooled, "time_ids": sizes}
        conditional, unconditional = unet(torch.cat([x, x]), t, context, added_cond_kwargs=kwargs).sample.chunk(2)
        x = scheduler.step(unconditional + guidance * (conditional - unconditional), t, x).prev_sample
    return as_images(vae.decoder(x))
