"""`python -m train lcm-lora`: distils a base into an LCM-LoRA of its own, with which it draws in a few steps."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import nn

from vega import few_step_adapters, recipes

from . import adapters, dataset_check, metadata, prompts, score_card, teacher_files, trajectories
from .cache import key_of
from .consistency import LOSSES, consistency_loss, regression_loss
from .data.dataset import Dataset
from .denoising import Batch
from .diffusion import Diffusion
from .examples import row_seed
from .guidance import unconditional_text
from .optimization import make_optimizer
from .perceptual_distance import load_lpips
from .score_card import FewStep, ScoreCard
from .timesteps import sample_timestep
from .training_run import TrainingRun, dataset_fingerprint

CONSISTENCY, TRAJECTORIES = "consistency", "trajectories"
PUBLISHED_SAMPLES = 12_000  # that the published recipe learns from: 1000 steps of twelve


def run(options: Namespace) -> None:
    check(options)
    options.alpha = options.alpha or float(options.rank)
    training = TrainingRun(options)
    if options.prompts:
        captions, dataset = prompts.read(options.prompts), None
        training.events.send("prompts", count=len(captions))
    else:
        dataset = dataset_check.load(options, quiet=not training.is_main)
        training.events.send("pictures", count=len(dataset.pictures), left_out=dataset.left_out)
        captions = [picture.caption for picture in dataset.pictures]
    kept_apart = score_card.held_out(captions, options.score_prompts)
    if kept_apart and training.is_main:
        print(f"{len(kept_apart)} prompts are kept from training for the score card", flush=True)
    captions = [caption for caption in captions if caption not in kept_apart]
    if dataset:
        dataset = dataset._replace(pictures=[p for p in dataset.pictures if p.caption not in kept_apart])
    data = dataset_fingerprint(dataset) if dataset else key_of(*captions)[:12]
    options.method = options.method or method(training, data)
    checked = LcmLoraRun(training, dataset, captions, kept_apart)
    training.begin(data)
    checked.run()


def check(options: Namespace) -> None:
    """ValueError for options that contradict each other, and for a name by which the file would be drawn wrongly."""
    if bool(options.pictures) == bool(options.prompts):
        raise ValueError("Give either a folder of PICTURES or --prompts with a text file: one of the two is learned from.")
    if options.w_min > options.w_max:
        least, most = f"{options.w_min:g}", f"{options.w_max:g}"
        raise ValueError(f"--w-min {least} is more than --w-max {most}: give a --w-max of at least {least}.")
    drawn_as = few_step_adapters.identify(Path(f"{options.name}.safetensors"), {})
    if drawn_as and drawn_as.recipe != recipes.LCM:
        raise ValueError(
            f"--name {options.name}: a file of this name would be taken for {drawn_as.name}, and drawn wrongly. Choose "
            "another, or one with lcm in it."
        )


def method(training: TrainingRun, data: str) -> str:
    """The method that the run began with; of a new one that which should be better for so many samples (docs/train.md)."""
    options, folder = training.options, training.folder
    try:
        if began := folder.stored_settings().get("method"):
            folder.check(training.settings(data) | {"method": began})
            return began
    except ValueError:
        if not options.overwrite:
            raise
    batch = options.batch_size * options.gradient_accumulation_steps * training.accelerator.num_processes
    return CONSISTENCY if options.steps * batch >= PUBLISHED_SAMPLES else TRAJECTORIES


class LcmLoraRun:
    """A run from pictures or prompts to the file and its score card; what is done, in the order of `run`.

    ValueError where there is no autoencoder for it.
    """

    def __init__(self, training: TrainingRun, dataset: Dataset | None, captions: list[str], held_out: list[str]):
        self.training, self.options, self.dataset = training, training.options, dataset
        self.captions, self.held_out = list(dict.fromkeys(captions)), held_out
        self.diffusion, self.texts = Diffusion(training.device), training.cached_texts()
        self.zeros = training.base.zero_unconditional
        if self.options.unconditional:
            self.zeros = self.options.unconditional == "zeros"
        if dataset or self.options.score_prompts or self.options.sample_prompts:
            training.on_main_process(training.open_vae)
        self.lpips = load_lpips(training.device) if self.options.score_prompts and training.is_main else None

    def run(self) -> None:
        training, options = self.training, self.options
        training.on_main_process(self.fill_caches)
        unet = training.unet()
        set_seed(options.seed)
        learned = adapters.add_lcm_lora(unet, options.rank, options.alpha)
        optimizer = make_optimizer([{"params": learned, "lr": options.learning_rate}], options.use_8bit_adam)
        losses = training.optimize(unet, optimizer, self.objective(unet), partial(self.draw_samples, unet))
        about = metadata.of_lcm_lora(options, training.base)
        training.on_main_process(lambda: training.save_lora(unet, [], about, losses))
        training.on_main_process(partial(self.score, unet, len(losses)))
        training.on_main_process(lambda: training.check_lora(unet, []))

    def fill_caches(self) -> None:
        if self.dataset:
            self.training.fill_latents(self.training.examples(self.dataset, self.texts))
        captions = ["", *self.captions, *self.held_out, *self.options.sample_prompts]
        self.training.fill_texts(self.texts, captions)

    def objective(self, unet: nn.Module) -> Callable[[int], torch.Tensor]:
        loss = LOSSES[self.options.loss_type]
        if self.options.method == TRAJECTORIES:
            points = self.trajectory_buffer(unet)

            def regression(number: int) -> torch.Tensor:
                stored, rows = points(number, "t")
                image = stored["picture"][rows]
                text, time_ids = teacher_files.text_of(stored, image), stored["size_ids"][image]
                x, t, end = stored["x"][rows], stored["t"][rows], stored["end"][image]
                return regression_loss(unet, self.diffusion, x, t, end, text, time_ids, loss)

            return regression

        batches = self.training.examples(self.dataset, self.texts) if self.dataset else self.drawn_batches(unet)

        def consistency(number: int) -> torch.Tensor:
            batch = batches(number)
            unconditional = self.unconditional(len(batch.latents))
            return consistency_loss(unet, self.diffusion, batch, unconditional, self.scales(number), loss)

        return consistency

    def unconditional(self, count: int):
        context, pooled = unconditional_text(self.texts, count, self.zeros)
        return context.to(self.training.device), None if pooled is None else pooled.to(self.training.device)

    def scales(self, number: int) -> torch.Tensor:
        """The guidance w [B] of a batch's rows, which several processes share as one would have them all."""
        size, accelerator = self.options.batch_size, self.training.accelerator
        total, first = size * accelerator.num_processes, size * accelerator.process_index
        generator = torch.Generator().manual_seed(row_seed(self.options.seed, number, total))  # no row has this number
        return self.w(torch.rand(total, generator=generator)[first : first + size])

    def w(self, shares: torch.Tensor) -> torch.Tensor:
        """What is so far on the way from the least to the largest."""
        return (self.options.w_min + (self.options.w_max - self.options.w_min) * shares).to(self.training.device)

    def trajectory_buffer(self, unet: nn.Module) -> teacher_files.TrajectoryBuffer:
        """The teacher's trajectories from noised pictures, or for prompts alone from pure noise."""
        training, options = self.training, self.options
        size = teacher_files.TRAJECTORIES_PER_FILE
        if self.dataset:
            batches = training.examples(self.dataset, self.texts, batch_size=size)
        else:
            batches = prompts.PromptBatches(self.captions, self.texts, size, training.sides, options.seed, training.device)

        def compute(index: int) -> dict[str, torch.Tensor]:
            batch = batches(index)
            if self.dataset:
                t, strides = trajectories.start_timesteps(size), torch.full((size,), trajectories.DDIM_STEP_TIMESTEPS)
            else:
                t, strides = torch.full((size,), trajectories.LAST_TIMESTEP), trajectories.first_strides(size)
            t, strides, w = t.to(training.device), strides.to(training.device), self.w(torch.rand(size))
            with adapters.disable_adapters(unet):
                return teacher_files.draw(unet, self.diffusion, batch, self.unconditional(size), t, w, strides)

        folder, accelerator = training.folder.trajectories, training.accelerator
        return teacher_files.TrajectoryBuffer(folder, compute, options.seed, options.batch_size, accelerator)

    def drawn_batches(self, unet: nn.Module) -> Callable[[int], Batch]:
        """Batches of what the teacher draws, with noise and timesteps as those of pictures have them."""
        files, seed = self.trajectory_buffer(unet), self.options.seed

        def batch(number: int) -> Batch:
            stored, image = files(number, "end")
            end, noise, timesteps = stored["end"][image], [], []
            first = files.rank_slice.start
            for row in range(first, first + len(image)):
                generator = torch.Generator().manual_seed(row_seed(seed, number, row))
                timesteps.append(sample_timestep(None, generator))
                noise.append(torch.randn(end.shape[1:], generator=generator))
            noise, timesteps = torch.stack(noise).to(end), torch.stack(timesteps).to(end.device)
            return Batch(end, noise, timesteps, teacher_files.text_of(stored, image), stored["size_ids"][image])

        return batch

    def drawing(self, unet: nn.Module) -> FewStep:
        guidance = 1 + (self.options.w_min + self.options.w_max) / 2
        return FewStep(unet, self.training.sampler(unet, self.texts, self.zeros), guidance)

    def draw_samples(self, unet: nn.Module) -> None:
        names = self.options.sample_prompts
        seeds = [self.options.seed + k for k in range(len(names))]
        with self.training.accelerator.autocast():
            self.training.save_samples(self.drawing(unet).sheet(names, seeds))

    def score(self, unet: nn.Module, done: int) -> None:
        """The score card, unless none is asked for; on prompts that were learned from where none were kept apart."""
        count, events = self.options.score_prompts, self.training.events
        if not count:
            return
        names = self.held_out or self.captions[:count]
        card = ScoreCard(self.training.folder.folder, self.lpips)
        if not card.has(done):
            with self.training.accelerator.autocast(), torch.no_grad():
                card.write(self.drawing(unet), names, self.options.seed, done, bool(self.held_out), events)
        table = card.table.read_text(encoding="utf-8")
        print(f"{table}\nsee {card.sheet}", flush=True)
        events.send("score", table=table, file=str(card.sheet))
