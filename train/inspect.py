"""`python -m train inspect`: the report on a data set, and nothing else."""

from argparse import Namespace

from tqdm import tqdm

from .data import folder, report
from .data.dataset import Dataset, checked

RESOLUTION = 1024


def run(options: Namespace) -> None:
    options.resolution = options.resolution or RESOLUTION
    load(options)


def load(options: Namespace, quiet: bool = False) -> Dataset:
    """The pictures of options.pictures, each read once, after the report on them; ValueError where there is none."""
    found = folder.read(options.pictures, options.instance_prompt)
    progress = tqdm(found.pictures, desc="reading pictures", mininterval=1, disable=quiet or None)
    dataset = checked(found, progress)
    for line in [] if quiet else report.lines(dataset, options.resolution):
        print(line, flush=True)
    if not dataset.pictures:
        raise ValueError(f"{options.pictures} has no picture to train on: {why_none(dataset)}.")
    return dataset


def why_none(dataset: Dataset) -> str:
    """The most frequent reason for which pictures were left out."""
    reasons = [reason for _, reason in dataset.left_out if "caption" in reason] or [reason for _, reason in dataset.left_out]
    return max(sorted(set(reasons)), key=reasons.count) if reasons else "it holds no files at all"
