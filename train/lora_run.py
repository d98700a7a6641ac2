"""One run of `python -m train lora`, from pictures to the file."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler
from torch import nn

from . import adapters, loading_back, loss_plot, metadata, prior, training_loop
from .base import NANO, NANO_LCM_LORA, Base, open_vae
from .cache import Cache, cache_latents, cache_texts
from .data.buckets import bucket_of, resolutions
from .data.dataset import Dataset
from .denoising import denoising_loss, prior_preserving_loss
from .diffusion import NOISE_SCHEDULE, prepare_for_device
from .events import Events
from .examples import CachedTexts, EncodedTexts, Examples
from .files import atomic_write, fingerprint_of_ends
from .images import make_grid
from .optimization import make_optimizer, schedule
from .run_folder import RunFolder
from .sampling import Sampler

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SEED_OF_PRIOR = 1  # added to the run's: class pictures are not in step with the others


class LoraRun:
    """A run: its models, its data, and what is done with them, in the order of `run`."""

    def __init__(
        self,
        options: Namespace,
        base: Base,
        dataset: Dataset,
        folder: RunFolder,
        accelerator: Accelerator,
        events: Events,
    ):
        self.options, self.base, self.dataset, self.folder = options, base, dataset, folder
        self.accelerator, self.events, self.device = accelerator, events, accelerator.device
        self.dtype = DTYPES[options.mixed_precision]
        self.scheduler = DDPMScheduler(**NOISE_SCHEDULE)
        self.tokenizers = base.tokenizers()
        self.vae_fingerprint = fingerprint_of_ends(vae_files(options.vae)) if options.vae else f"{base.fingerprint}-vae"
        self.encoders = base.text_encoders(self.dtype) if options.train_text_encoder else []
        self.texts = self.conditioning()
        self.lcm_lora = options.lcm_lora or (NANO_LCM_LORA if base.path == NANO else None)
        if self.lcm_lora and not self.lcm_lora.is_file():
            raise ValueError(f"--lcm-lora {self.lcm_lora} is no file.")
        self.done = 0

    def run(self) -> None:
        examples = self.examples(self.dataset)
        self.in_main(partial(self.fill_caches, examples))
        unet = prepare_for_device(self.base.unet(self.dtype), self.device)
        class_examples = self.prior(unet) if self.options.class_prompt else None
        groups = self.add_adapters(unet)
        learned = nn.ParameterList(parameter for group in groups for parameter in group["params"])
        if self.options.report_to:
            self.accelerator.init_trackers(self.options.name)
        losses = training_loop.train(
            learned,
            self.objective(unet, examples, class_examples),
            make_optimizer(groups, self.options.use_8bit_adam),
            schedule(self.options.lr_scheduler, self.options.steps, self.options.lr_warmup_steps),
            self.folder.state,
            self.options.steps,
            ema_decay=self.options.ema_decay,
            log_samples=partial(self.draw_samples, unet) if self.options.sample_prompts else None,
            accelerator=self.accelerator,
            accumulation=self.options.gradient_accumulation_steps,
            save_every=self.options.save_every,
            sample_every=self.options.sample_every,
            max_grad_norm=self.options.max_grad_norm,
            on_step=self.on_step,
        )
        self.in_main(partial(self.finish, unet, losses))
        if self.options.report_to:
            self.accelerator.end_training()

    def in_main(self, work: Callable[[], None]) -> None:
        """Done by one process while the others wait."""
        if self.accelerator.is_main_process:
            work()
        self.accelerator.wait_for_everyone()

    def examples(self, dataset: Dataset, seed: int = 0) -> Examples:
        return Examples(
            dataset.pictures,
            self.options.resolution,
            Cache(self.folder.cache / "latents"),
            self.vae_fingerprint,
            self.texts,
            self.options.batch_size,
            self.options.seed + seed,
            self.options.caption_dropout,
            self.options.random_flip,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.device,
        )

    def conditioning(self) -> Callable[[list[str]], tuple]:
        """captions -> what the UNet is given: from the cache, unless the encoders learn."""
        if self.encoders:
            return EncodedTexts([encoder.to(self.device) for encoder in self.encoders], self.tokenizers)
        return CachedTexts(Cache(self.folder.cache / "texts"), self.base.fingerprint, self.dtype)

    def fill_caches(self, examples: Examples) -> None:
        cache_latents(examples.cache, examples.wanted(), self.vae_fingerprint, self.open_vae, self.device, self.events)
        if isinstance(self.texts, CachedTexts):
            captions = ["", *(picture.caption for picture in examples.pictures)]
            captions += [*self.options.class_prompt, *self.options.sample_prompts]
            models = self.base.fingerprint, self.base.text_encoders, self.tokenizers
            cache_texts(self.texts.cache, captions, *models, self.device, self.dtype, self.events)

    def open_vae(self) -> nn.Module:
        return open_vae(self.options.vae, self.base.is_xl) if self.options.vae else self.base.vae()

    def sampler(self, unet: nn.Module) -> Sampler:
        side, _ = bucket_of(1, 1, resolutions(self.options.resolution))
        return Sampler(unet, self.open_vae, self.texts, self.base.is_xl, side)

    def prior(self, unet: nn.Module) -> Examples:
        """The class pictures, drawn where they are missing."""
        directory, prompts, count = self.folder.class_pictures, self.options.class_prompt, self.options.num_class_images
        with self.accelerator.autocast():
            self.in_main(lambda: prior.draw(directory, prompts, count, partial(self.sampler, unet), self.events))
        examples = self.examples(prior.dataset(directory, prompts, count), SEED_OF_PRIOR)
        self.in_main(partial(self.fill_caches, examples))
        return examples

    def add_adapters(self, unet: nn.Module) -> list[dict]:
        """The optimizer's groups of parameters: the UNet's LoRA, and that of the text encoders where they learn."""
        set_seed(self.options.seed)
        rank, alpha = self.options.rank, self.options.alpha
        targets = tuple(self.options.target_modules)
        groups = [{"params": adapters.add(unet, rank, alpha, targets), "lr": self.options.learning_rate}]
        for encoder in self.encoders:
            learned = adapters.add(encoder, rank, alpha, adapters.TEXT_TARGET_MODULES)
            groups.append({"params": learned, "lr": self.options.text_encoder_lr})
        if self.options.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        return groups

    def objective(self, unet: nn.Module, examples: Examples, classes: Examples | None) -> Callable[[int], torch.Tensor]:
        gamma, weight = self.options.snr_gamma, self.options.prior_loss_weight

        def compute_loss(number: int) -> torch.Tensor:
            batch = examples(number)
            if classes is None:
                return denoising_loss(unet, self.scheduler, batch, gamma)
            return prior_preserving_loss(unet, self.scheduler, batch, classes(number), weight, gamma)

        return compute_loss

    def on_step(self, done: int, loss: float, learning_rate: float) -> None:
        self.done = done
        self.events.step(done, loss, learning_rate)
        if self.options.report_to:
            self.accelerator.log({"loss": loss, "learning rate": learning_rate}, step=done)

    def draw_samples(self, unet: nn.Module) -> None:
        """A sheet: the prompts across, with an LCM-LoRA in four steps where there is one, and below in 25 without it."""
        sampler, prompts = self.sampler(unet), self.options.sample_prompts
        seeds = [self.options.seed + k for k in range(len(prompts))]
        with self.accelerator.autocast():
            images = sampler.sample_in_few_steps(self.lcm_lora, prompts, seeds) if self.lcm_lora else []
            images += sampler.sample(prompts, seeds)
        file = self.folder.samples / f"{self.done:06}.png"
        with atomic_write(file) as partial_file:
            make_grid(images, sampler.side, len(prompts)).save(partial_file, "PNG")
        self.events.send("samples", step=self.done, file=str(file))

    def finish(self, unet: nn.Module, losses: list[float]) -> None:
        output = self.folder.output
        tensors = adapters.kohya_state_dict(unet, self.encoders, self.options.alpha)
        about = metadata.of_run(self.options, self.base, self.dataset, len(losses))
        try:
            loss_plot.write(self.folder.loss_plot, losses)
            adapters.save(tensors, output, about)
        except OSError as error:
            raise ValueError(
                f"{output} can't be written ({error}). Nothing is lost: make room, and give the same command again."
            ) from error
        said = loading_back.check(output, unet, self.encoders, self.base.is_xl)
        print(f"{output}: {said}", flush=True)
        self.events.send("done", file=str(output), loaded_back=said)


def vae_files(path: Path) -> list[Path]:
    """ValueError where there is none."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"--vae {path}: there are no weights. Give a diffusers folder of an autoencoder, or a file.")
    return files
