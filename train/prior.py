"""DreamBooth's class pictures: what the base itself draws of the class, so that it goes on drawing it as it did."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import nn

from .adapters import disable_adapters
from .data.dataset import Dataset, TrainingImage, checked
from .denoising import Batch, prediction
from .events import SILENT, Events
from .files import atomic_write
from .sampling import Sampler

SAMPLE_BATCH_SIZE = 4


def files(directory: Path, prompts: list[str], count: int) -> list[tuple[Path, str]]:
    """Where each class picture is or will be, and its prompt: the prompts in turn."""
    return [(directory / f"{k:04}.png", prompts[k % len(prompts)]) for k in range(count)]


def draw(
    directory: Path, prompts: list[str], count: int, make_sampler: Callable[[], Sampler], events: Events = SILENT
) -> None:
    """Draws those that are not there yet, one seed each; what an interrupted run has drawn is kept.

    The same ones are always drawn together: a picture's last bits depend on how many are beside it.
    """
    wanted = [(k, *one) for k, one in enumerate(files(directory, prompts, count))]
    groups = [wanted[start : start + SAMPLE_BATCH_SIZE] for start in range(0, count, SAMPLE_BATCH_SIZE)]
    missing = [group for group in groups if not all(path.exists() for _, path, _ in group)]
    if not missing:
        return
    sampler = make_sampler()
    for group in events.track(missing, "class pictures"):
        seeds, paths, texts = zip(*group, strict=True)
        with torch.no_grad():
            images = sampler.sample(list(texts), list(seeds))
        for path, image in zip(paths, images, strict=True):
            if path.exists():
                continue
            with atomic_write(path) as file:
                image.save(file, "PNG")


def dataset(directory: Path, prompts: list[str], count: int) -> Dataset:
    """The class pictures with their prompts; ValueError for one that can't be read."""
    pictures = [TrainingImage(path, path.name, text, "--class-prompt") for path, text in files(directory, prompts, count)]
    class_pictures = checked(Dataset(pictures, [], []))
    if class_pictures.left_out:
        name, reason = class_pictures.left_out[0]
        raise ValueError(f"{directory / name}: {reason}. Delete it, and give the same command again: it is drawn anew.")
    return class_pictures


def base_prediction(
    unet: nn.Module, encoders: list[nn.Module], scheduler: DDPMScheduler, make_batch: Callable[[], Batch]
) -> torch.Tensor:
    """The noise [B, 4, h, w] that the base sees in a batch: the UNet, and the encoders that encode it, without adapters.

    As a target it is learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282): what the class pictures are, and
    the noise that no model can know, pull at nothing. OneTrainer's prior prediction.
    """
    with torch.no_grad(), ExitStack() as stack:
        for model in (unet, *encoders):
            stack.enter_context(disable_adapters(model))
        return prediction(unet, scheduler, make_batch())
