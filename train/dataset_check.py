"""`python -m train inspect`: the report on a data set, and nothing else."""

from argparse import Namespace

from tqdm import tqdm

from .data import folder, report
from .data.buckets import square
from .data.dataset import Dataset, TrainingImage, checked

RESOLUTION = 1024
CAPTION_TOKENS = 75  # that CLIP's text encoders read


def run(options: Namespace) -> None:
    options.resolution = options.resolution or RESOLUTION
    load(options)


def load(options: Namespace, quiet: bool = False) -> Dataset:
    """The pictures of options.pictures, each read once, after the report on them; ValueError where there is none."""
    found = folder.read(options.pictures, options.instance_prompt)
    progress = tqdm(found.pictures, desc="reading pictures", mininterval=1, disable=quiet or None)
    dataset = checked(found, progress)
    if not quiet:
        dataset.notes.extend(truncated_captions_note(dataset.pictures))
        for line in report.lines(dataset, resolutions(options)):
            print(line, flush=True)
    if not dataset.pictures:
        raise ValueError(f"{options.pictures} has no picture to train on: {no_images_reason(dataset)}.")
    return dataset


def resolutions(options: Namespace) -> list[int]:
    """At which each picture is learned: first that of what is drawn. ValueError for two with the same square pictures."""
    of_square: dict[int, int] = {}
    for resolution in (options.resolution, *sorted(options.more_resolutions)):
        side = square(resolution)
        if side in of_square:
            raise ValueError(
                f"Square pictures have {side} x {side} pixels both at {of_square[side]} and at {resolution}: leave "
                f"{resolution} out of --more-resolutions."
            )
        of_square[side] = resolution
    return list(of_square.values())


def no_images_reason(dataset: Dataset) -> str:
    """The most frequent reason for which pictures were left out."""
    reasons = [reason for _, reason in dataset.left_out if "caption" in reason] or [reason for _, reason in dataset.left_out]
    return max(sorted(set(reasons)), key=reasons.count) if reasons else "it holds no files at all"


def truncated_captions_note(pictures: list[TrainingImage]) -> list[str]:
    """The note on captions that the text encoders read only the beginning of."""
    long = [picture for picture in pictures if len(picture.caption.encode()) > CAPTION_TOKENS]  # a token has a byte or more
    if not long:
        return []
    from .base import NANO  # seconds of imports, which short captions need not wait for
    from .text_encoding import load_tokenizers

    rows = load_tokenizers(NANO)[0]([picture.caption for picture in long], add_special_tokens=False, verbose=False).input_ids
    names = [picture.name for picture, row in zip(long, rows, strict=True) if len(row) > CAPTION_TOKENS]
    said = f"captions are longer than {CAPTION_TOKENS} tokens, the rest of which is not read"
    return [f"{len(names)} {said} ({names[0]} is one)"] if names else []
