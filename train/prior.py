"""DreamBooth's class pictures: what the base itself draws of the class, so that it goes on drawing it as it did."""

from collections.abc import Callable
from pathlib import Path

import torch

from .data.dataset import Dataset, Picture, checked
from .events import SILENT, Events
from .files import atomic_write
from .sampling import Sampler

AT_ONCE = 4


def files(directory: Path, prompts: list[str], count: int) -> list[tuple[Path, str]]:
    """Where each class picture is or will be, and its prompt: the prompts in turn."""
    return [(directory / f"{k:04}.png", prompts[k % len(prompts)]) for k in range(count)]


def draw(
    directory: Path, prompts: list[str], count: int, make_sampler: Callable[[], Sampler], events: Events = SILENT
) -> None:
    """Draws those that are not there yet, one seed each; what an interrupted run has drawn is kept."""
    missing = [(k, *one) for k, one in enumerate(files(directory, prompts, count)) if not one[0].exists()]
    if not missing:
        return
    sampler = make_sampler()
    for start in events.track(range(0, len(missing), AT_ONCE), "class pictures"):
        seeds, paths, texts = zip(*missing[start : start + AT_ONCE], strict=True)
        with torch.no_grad():
            images = sampler.sample(list(texts), list(seeds))
        for path, image in zip(paths, images, strict=True):
            with atomic_write(path) as file:
                image.save(file, "PNG")


def dataset(directory: Path, prompts: list[str], count: int) -> Dataset:
    """The class pictures with their prompts; ValueError for one that can't be read."""
    pictures = [Picture(path, path.name, text, "--class-prompt") for path, text in files(directory, prompts, count)]
    found = checked(Dataset(pictures, [], []))
    if found.left_out:
        name, reason = found.left_out[0]
        raise ValueError(f"{directory / name}: {reason}. Delete it, and give the same command again: it is drawn anew.")
    return found
