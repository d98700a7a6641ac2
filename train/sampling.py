"""Pictures that the model under training draws, by diffusers' own pipelines: class pictures and sample sheets."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from torch import nn

from .diffusion import NOISE_SCHEDULE
from .guidance import unconditional_text
from .images import to_pil

STEPS, GUIDANCE_SCALE = 25, 5.0
SPACING = dict(timestep_spacing="leading", steps_offset=1)  # as the bases' own scheduler_config.json
LCM_STEPS = 4
LCM = "lcm"  # the adapter's name


class Sampler:
    """Draws prompts with a UNet as it is. texts gives (context, pooled) of captions; the VAE is read when it is needed."""

    def __init__(
        self,
        unet: nn.Module,
        open_vae: Callable[[], nn.Module],
        texts: Callable,
        is_xl: bool,
        side: int,
        zero_unconditional: bool = False,
    ):
        self.unet, self.open_vae, self.texts, self.is_xl, self.side = unet, open_vae, texts, is_xl, side
        self.zero_unconditional = zero_unconditional
        pipeline = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
        parts = dict(vae=self.empty_vae(), unet=unet, scheduler=EulerDiscreteScheduler(**NOISE_SCHEDULE, **SPACING))
        parts |= dict(text_encoder=None, tokenizer=None)
        if is_xl:
            parts |= dict(text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
        else:
            parts |= dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        self.pipe = pipeline(**parts)
        self.pipe.set_progress_bar_config(disable=True)

    def sample(
        self, prompts: list[str], seeds: list[int], steps: int = STEPS, guidance: float = GUIDANCE_SCALE
    ) -> list[Image.Image]:
        """One picture of each prompt, on its seed."""
        return self.decode(self.sample_latents(prompts, seeds, steps, guidance))

    def sample_latents(self, prompts: list[str], seeds: list[int], steps: int, guidance: float) -> torch.Tensor:
        """[B, 4, h, w], scaled, of each prompt on its seed."""
        device, dtype = self.unet.device, self.unet.dtype
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        context, pooled = self.texts(prompts)
        given = {"prompt_embeds": context}
        if self.is_xl:
            given["pooled_prompt_embeds"] = pooled
        if guidance > 1:
            context, pooled = unconditional_text(self.texts, len(prompts), self.zero_unconditional)
            given["negative_prompt_embeds"] = context
            if self.is_xl:
                given["negative_pooled_prompt_embeds"] = pooled
        return self.pipe(
            **{name: tensor.to(device, dtype) for name, tensor in given.items()},
            generator=generators,
            num_inference_steps=steps,
            guidance_scale=guidance,
            height=self.side,
            width=self.side,
            output_type="latent",
        ).images

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """In fp32, as SDXL's autoencoder overflows in fp16. ValueError for pictures that are not finite."""
        device = self.unet.device
        vae = self.open_vae().to(device)
        with torch.autocast(device.type, enabled=False):
            pixels = [vae.decode(latent[None].float() / vae.config.scaling_factor).sample for latent in latents]
        if not all(each.isfinite().all() for each in pixels):
            raise ValueError(
                "A picture that the model drew has no finite numbers. Train with --mixed-precision bf16 or no in place of "
                "fp16, or give another autoencoder with --vae; if it was a sample, --sample-prompts can be left out."
            )
        return [image for each in pixels for image in to_pil(each)]

    def sample_in_few_steps(self, lcm_lora: Path, prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        """The same with an LCM-LoRA beside what is on the UNet, in four steps."""
        with self.few_step(lcm_lora):
            return self.sample(prompts, seeds, LCM_STEPS, 1.0)

    @contextmanager
    def few_step(self, lcm_lora: Path):
        """Within it the LCM-LoRA is on the UNet, and the pipeline has its sampler."""
        learned = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        there = self.unet.active_adapters() if getattr(self.unet, "peft_config", None) else []
        tensors, alphas = type(self.pipe).lora_state_dict(lcm_lora, unet_config=self.unet.config)
        type(self.pipe).load_lora_into_unet(tensors, alphas, self.unet, adapter_name=LCM)
        self.unet.set_adapters([*there, LCM])
        try:
            with self.use_scheduler(LCMScheduler(**NOISE_SCHEDULE)):
                yield
        finally:
            self.unet.delete_adapters(LCM)
            if there:
                self.unet.set_adapters(there)
            for parameter in self.unet.parameters():
                parameter.requires_grad_(False)
            for parameter in learned:
                parameter.requires_grad_(True)

    @contextmanager
    def use_scheduler(self, scheduler):
        """Within it the pipeline has this scheduler."""
        before = self.pipe.scheduler
        self.pipe.scheduler = scheduler
        try:
            yield
        finally:
            self.pipe.scheduler = before

    def empty_vae(self) -> nn.Module:
        """The pipeline asks it for the size of a latent, and for nothing else: latents are decoded here."""
        with torch.device("meta"):
            return AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4)
