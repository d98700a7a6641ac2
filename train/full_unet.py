"""What the runs have that train a whole UNet: `distill`, which trains a smaller one, and `finetune`."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from . import dataset_check, ldm_checkpoint, metadata, model_folder, optimization
from .denoising import Batch
from .files import atomic_write
from .training_run import TrainingRun, dataset_fingerprint


def start(options: Namespace) -> TrainingRun:
    """The run whose result is the folder NAME; ValueError where that would be written over something else."""
    if options.use_8bit_adam and options.optimizer == "adafactor":
        raise ValueError("--use-8bit-adam and --optimizer adafactor are two optimizers: give one of them.")
    training = TrainingRun(options, options.name)
    output = training.folder.output
    sources = [path.resolve() for path in (training.base.path, options.pictures, options.work, options.vae) if path]
    if any(output.resolve() in (source, *source.parents) for source in sources):
        raise ValueError(f"{output} is what the run reads from, or holds it: choose another --name or --output-dir.")
    if output.is_file() or output.is_dir() and any(output.iterdir()) and not (output / model_folder.MODEL_INDEX).is_file():
        raise ValueError(f"{output} exists and is no model's folder: choose another --name or --output-dir.")
    return training


class FullUnetRun:
    """A run from pictures to a diffusers folder; what is done, in the order of `run`.

    parameters: those that learn; frozen_bytes: what lies beside them in memory.
    """

    def __init__(self, training: TrainingRun, parameters: int, frozen_bytes: int = 0):
        self.training, self.options = training, training.options
        dataset = dataset_check.load(self.options, quiet=not training.is_main)
        training.events.send("pictures", count=len(dataset.pictures), left_out=dataset.left_out)
        training.on_main_process(training.open_vae)
        self.options.optimizer = self.options.optimizer or optimizer_for(training, parameters, frozen_bytes)
        training.begin(dataset_fingerprint(dataset))
        self.texts = training.cached_texts()
        self.examples = training.examples(dataset, self.texts)

    def run(
        self, prepare: Callable[[], tuple[nn.Module, Callable[[Batch], torch.Tensor]]], in_one_file: bool = False
    ) -> None:
        """prepare() gives the UNet and the loss of a batch, when text encoders and autoencoder are gone from memory.

        in_one_file: a checkpoint file is written beside, for the models that there are such files of.
        """
        training, options = self.training, self.options
        training.on_main_process(self.fill_caches)
        unet, loss = prepare()
        groups = [{"params": list(unet.requires_grad_(True).parameters()), "lr": options.learning_rate}]
        optimizer = optimization.make_optimizer(groups, options.use_8bit_adam, options.optimizer == "adafactor")
        draw_samples = partial(training.draw_samples, unet, self.texts)
        losses = training.optimize(unet, optimizer, lambda number: loss(self.examples(number)), draw_samples)
        training.on_main_process(lambda: training.save(partial(self.write, unet, in_one_file), losses))
        training.on_main_process(lambda: training.report_done(model_folder.check(training.folder.output, unet)))

    def fill_caches(self) -> None:
        self.training.fill_latents(self.examples)
        captions = ["", *(picture.caption for picture in self.examples.pictures), *self.options.sample_prompts]
        self.training.fill_texts(self.texts, captions)

    def write(self, unet: nn.Module, in_one_file: bool, output: Path) -> None:
        base, vae = self.training.base, self.training.open_vae()
        with atomic_write(output) as folder:
            model_folder.write(folder, unet, base, vae, self.options.resolution)
            if in_one_file and ldm_checkpoint.has_layout(unet, vae):
                tensors = ldm_checkpoint.tensors(unet, vae, base.stored_encoders())
                about = metadata.of_model(self.options, base)
                model_folder.save_half(tensors, folder / f"{self.options.name}.safetensors", about)


def optimizer_for(training: TrainingRun, parameters: int, frozen_bytes: int) -> str:
    """That which the run began with; of a new one AdamW, or Adafactor where its GPU has no room for AdamW's moments."""
    options = training.options
    if not options.overwrite and (began := training.folder.stored_settings().get("optimizer")):
        return began
    if training.device.type != "cuda" or options.use_8bit_adam:
        return "adamw"
    memory = torch.cuda.get_device_properties(training.device).total_memory
    has_room = optimization.optimizer_state_fits(parameters, options.ema_decay > 0, frozen_bytes, memory)
    return "adamw" if has_room else "adafactor"
