"""What is in a data set, as text: read before training, so that nothing is learned from by mistake or lost in silence."""

from collections import Counter

from .buckets import bucket_of, resolutions
from .dataset import Dataset

EXAMPLES = 5


def lines(dataset: Dataset, sides: list[int]) -> list[str]:
    """The report: how many pictures, what their captions are from, repeats, buckets, examples, and each file left out.

    sides: the resolutions.
    """
    pictures = dataset.pictures
    of = {side: [bucket_of(picture.width, picture.height, resolutions(side)) for picture in pictures] for side in sides}
    small = [
        p.name
        for p, *buckets in zip(pictures, *of.values(), strict=True)
        if any(p.width < w or p.height < h for w, h in buckets)
    ]
    said = [f"{len(pictures)} pictures, {sum(p.repeats for p in pictures)} with repeats; {len(dataset.left_out)} left out"]
    if pictures:
        said.append(f"captions: {counted(p.source for p in pictures)}")
        said.append(f"repeats: {counted(p.repeats for p in pictures)}")
        said += [f"buckets of {side} pixels: {counted(f'{w}x{h}' for w, h in buckets)}" for side, buckets in of.items()]
        said += [f'for example {p.name}: "{p.caption}"' for p in pictures[:: max(1, len(pictures) // EXAMPLES)][:EXAMPLES]]
    if small:
        said.append(f"note: {len(small)} pictures are smaller than their bucket, and are enlarged ({small[0]} is one)")
    said += [f"note: {note}" for note in dataset.notes]
    return said + [f"left out: {name}: {reason}" for name, reason in dataset.left_out]


def counted(values) -> str:
    """Each value and how often there is it: "text x 3, caption x 1"."""
    return ", ".join(
        f"{value} x {count}" for value, count in sorted(Counter(values).items(), key=lambda v: (-v[1], str(v[0])))
    )
