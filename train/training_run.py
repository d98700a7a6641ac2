"""What every run of `python -m train` has, whatever it learns: the base, its caches, the loop, the file."""

import json
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import AutocastKwargs, is_tensorboard_available, is_wandb_available
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn
from transformers.utils import logging as transformers_logging

from . import adapters, lora_round_trip, loss_plot, training_loop
from .base import Base, open_base, open_vae
from .cache import Cache, cache_latents, cache_texts, key_of
from .data.buckets import square
from .data.dataset import Dataset
from .dataset_check import resolutions
from .diffusion import prepare_for_device
from .events import Events
from .examples import CachedTexts, Examples
from .files import atomic_write, check_writable, sampled_fingerprint
from .images import make_grid
from .optimization import adamw_8bit, schedule
from .run_folder import RunFolder
from .sampling import Sampler
from .timesteps import timestep_weights

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PROMPTS = "prompts"  # what a sheet's PNG has them under
TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


class TrainingRun:
    """The base and the folder of a run, and what is done in the same way in every run.

    result: what the run writes into the output folder; NAME.safetensors unless it says otherwise.
    """

    def __init__(self, options: Namespace, result: str = ""):
        diffusers_logging.set_verbosity_error()
        transformers_logging.set_verbosity_error()
        self.options, self.base = options, open_base(options.base)
        options.resolution = options.resolution or self.base.resolution
        self.resolutions = resolutions(options)  # of what is learned from; what is drawn has the first
        options.more_resolutions = self.resolutions[1:]  # in their order: another one is no other run
        output = options.output_dir / (result or f"{options.name}.safetensors")
        self.folder = RunFolder(options.work, options.name, output)
        self.accelerator = make_accelerator(options, self.folder)
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.events = Events(options.progress == "json" and self.is_main, options.steps)
        self.dtype = DTYPES[options.mixed_precision]
        self.tokenizers = self.base.tokenizers()
        self.vae_fingerprint = vae_fingerprint(options.vae, self.base)
        self.done = 0
        # Now, and not when all is learned.
        self.on_main_process(self.base.stored_encoders)
        self.on_main_process(partial(check_writable, options.output_dir, "--output-dir"))
        self.on_main_process(partial(check_writable, options.work, "--work"))
        self.on_main_process(self.folder.lock)

    def settings(self, data: str) -> dict:
        """What a run that goes on must share; data tells what it learns from."""
        ignored = ("run", "command", "pictures", "base", "prompts")
        chosen = {name: value for name, value in vars(self.options).items() if name not in ignored}
        return chosen | {"base": self.base.fingerprint, "pictures": data, "processes": self.accelerator.num_processes}

    def begin(self, data: str) -> None:
        """Notes the settings, or finds that they are those of a run that is gone on with.

        Whatever else can be refused was looked at before: with --overwrite this deletes another run.
        """
        self.on_main_process(partial(self.folder.begin, self.settings(data), self.options.overwrite))

    def on_main_process(self, work: Callable[[], None]) -> None:
        """Done by one process while the others wait."""
        if self.is_main:
            work()
        self.accelerator.wait_for_everyone()

    @property
    def trainable_dtype(self) -> torch.dtype:
        """Of weights that learn: in half precision most of an update would be rounded off."""
        return torch.promote_types(self.dtype, torch.float32)

    def unet(self, dtype: torch.dtype | None = None) -> nn.Module:
        """The base's, in the run's precision unless another is asked for."""
        return prepare_for_device(self.base.unet(dtype or self.dtype), self.device)

    def examples(
        self, dataset: Dataset, texts: Callable, seed: int = 0, batch_size: int = 0, resolutions: list[int] | None = None
    ) -> Examples:
        """Batches of the data set; seed is added to the run's. Those of another batch_size are not shared by processes."""
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        return Examples(
            dataset.pictures,
            resolutions or self.resolutions,
            Cache(self.folder.cache / "latents"),
            self.vae_fingerprint,
            texts,
            batch_size or self.options.batch_size,
            self.options.seed + seed,
            self.options.caption_dropout,
            self.options.random_flip,
            0 if batch_size else process,
            1 if batch_size else processes,
            self.device,
            timestep_weights(self.options),
            getattr(self.options, "noise_offset", 0.0),  # which runs of other objectives lack
        )

    def cached_texts(self) -> CachedTexts:
        return CachedTexts(Cache(self.folder.cache / "texts"), self.base.fingerprint, self.dtype)

    def fill_latents(self, examples: Examples) -> None:
        cache_latents(examples.cache, examples.wanted(), self.vae_fingerprint, self.open_vae, self.device, self.events)

    def fill_texts(self, texts: CachedTexts, captions: list[str]) -> None:
        models = self.base.fingerprint, self.base.text_encoders, self.tokenizers
        cache_texts(texts.cache, captions, *models, self.device, self.dtype, self.events)

    def open_vae(self) -> nn.Module:
        return open_vae(self.options.vae, self.base.is_xl) if self.options.vae else self.base.vae()

    @property
    def sides(self) -> list[int]:
        """In pixels, of the square pictures of each resolution."""
        return [square(resolution) for resolution in self.resolutions]

    @property
    def side(self) -> int:
        """In pixels, of the square pictures that are drawn."""
        return self.sides[0]

    def sampler(self, unet: nn.Module, texts: Callable, zero_unconditional: bool = False) -> Sampler:
        return Sampler(unet, self.open_vae, texts, self.base.is_xl, self.side, zero_unconditional)

    def optimize(
        self, unet: nn.Module, optimizer: torch.optim.Optimizer, compute_loss: Callable, draw_samples: Callable
    ) -> list[float]:
        """Trains what the optimizer holds, as the options say; the loss of every step."""
        options = self.options
        if options.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            unet.train()
        if options.report_to:
            self.accelerator.init_trackers(options.name)
        losses = training_loop.train(
            nn.ParameterList(parameter for group in optimizer.param_groups for parameter in group["params"]),
            compute_loss,
            optimizer,
            schedule(options.lr_scheduler, options.steps, options.lr_warmup_steps),
            self.folder.state,
            options.steps,
            ema_decay=options.ema_decay,
            log_samples=draw_samples if options.sample_prompts else None,
            accelerator=self.accelerator,
            accumulation=options.gradient_accumulation_steps,
            save_every=options.save_every,
            sample_every=options.sample_every,
            max_grad_norm=options.max_grad_norm,
            on_step=self.on_step,
        )
        self.done = len(losses)
        if options.sample_prompts:
            self.on_main_process(partial(self.complete_samples, draw_samples))
        if options.report_to:
            self.accelerator.end_training()
        return losses

    @property
    def sheet(self) -> Path:
        return self.folder.samples / f"{self.done:06}.png"

    def complete_samples(self, draw_samples: Callable) -> None:
        """The sheet of the last step, unless there is one of these prompts: they may have changed after it."""
        if self.sheet.exists():
            with Image.open(self.sheet) as sheet:
                drawn = json.loads(sheet.info.get(PROMPTS, "[]"))
            if drawn == self.options.sample_prompts:
                return
        with torch.no_grad():
            draw_samples()

    def on_step(self, done: int, loss: float, learning_rate: float) -> None:
        self.done = done
        self.events.step(done, loss, learning_rate)
        if self.options.report_to:
            self.accelerator.log({"loss": loss, "learning rate": learning_rate}, step=done)

    def draw_samples(self, unet: nn.Module, texts: Callable, lcm_lora: Path | None = None) -> None:
        """A sheet: the prompts across, with an LCM-LoRA in four steps where there is one, and below in 25 without it."""
        sampler, prompts = self.sampler(unet, texts), self.options.sample_prompts
        seeds = [self.options.seed + k for k in range(len(prompts))]
        with self.accelerator.autocast():
            images = sampler.sample_in_few_steps(lcm_lora, prompts, seeds) if lcm_lora else []
            images += sampler.sample(prompts, seeds)
        self.save_samples(make_grid(images, sampler.side, len(prompts)))

    def save_samples(self, sheet: Image.Image) -> None:
        about = PngInfo()
        about.add_text(PROMPTS, json.dumps(self.options.sample_prompts))
        with atomic_write(self.sheet) as partial_file:
            sheet.save(partial_file, "PNG", pnginfo=about)
        self.events.send("samples", step=self.done, file=str(self.sheet))

    def save(self, write: Callable[[Path], None], losses: list[float]) -> None:
        """Draws the loss plot, and has the result written to its place."""
        loss_plot.write(self.folder.loss_plot, losses)
        write(self.folder.output)

    def report_done(self, loaded_back: str) -> None:
        """Tells what was made, and that it loads back."""
        output = self.folder.output
        print(f"{output}: {loaded_back}", flush=True)
        self.events.send("done", file=str(output), loaded_back=loaded_back)

    def save_lora(self, unet: nn.Module, encoders: list[nn.Module], about: dict[str, str], losses: list[float]) -> None:
        tensors = adapters.kohya_state_dict(unet, encoders, self.options.alpha)
        self.save(lambda file: adapters.save(tensors, file, about), losses)

    def check_lora(self, unet: nn.Module, encoders: list[nn.Module]) -> None:
        """Loads the file back, after which the models are of no more use."""
        self.report_done(lora_round_trip.check(self.folder.output, unet, encoders, self.base.is_xl))


def make_accelerator(options: Namespace, folder: RunFolder) -> Accelerator:
    """Accelerate's, in the precision that is asked for; ValueError for what this machine or installation lacks."""
    if options.report_to and not TRACKERS[options.report_to]():
        raise ValueError(f"--report-to {options.report_to} needs it: pip install {options.report_to}, or leave it out.")
    if options.use_8bit_adam:
        adamw_8bit()  # now, and not after an hour of latents
    cuda = torch.cuda.is_available()
    has_bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)  # emulated it is slower than fp32
    options.mixed_precision = options.mixed_precision or ("bf16" if has_bf16 else "no")
    if options.mixed_precision == "fp16" and not cuda:
        raise ValueError("--mixed-precision fp16 needs a GPU: leave it out, or give bf16.")
    return Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=options.report_to,
        project_dir=folder.folder,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(days=2)),  # the others wait while one fills the cache
            AutocastKwargs(cache_enabled=False),  # before torch 2.11 weights cast under no_grad stayed without a gradient
        ],
    )


def dataset_fingerprint(dataset: Dataset) -> str:
    """What a data set is, in twelve hexadecimal digits: its pictures, captions and repeats."""
    return key_of(*((p.name, p.digest, p.caption, p.repeats) for p in dataset.pictures))[:12]


def vae_fingerprint(path: Path | None, base: Base) -> str:
    """Of the autoencoder in the path, or the base's own; ValueError where there is none."""
    if path is None:
        return f"{base.fingerprint}-vae"
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise ValueError(f"--vae {path}: there are no weights. Give a diffusers folder of an autoencoder, or a file.")
    return sampled_fingerprint(files)
