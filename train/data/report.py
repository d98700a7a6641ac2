"""What is in a data set, as text: read before training, so that nothing is learned from by mistake or lost in silence."""

from collections import Counter

from .buckets import bucket_of, sizes
from .dataset import Dataset

EXAMPLES = 5


def lines(dataset: Dataset, resolutions: list[int]) -> list[str]:
    """The report: how many pictures, what their captions are from, repeats, buckets, examples, and each file left out."""
    pictures, notes = dataset.pictures, []
    said = [f"{len(pictures)} pictures, {sum(p.repeats for p in pictures)} with repeats; {len(dataset.left_out)} left out"]
    if pictures:
        said.append(f"captions: {counted(p.source for p in pictures)}")
        said.append(f"repeats: {counted(p.repeats for p in pictures)}")
        for resolution in resolutions:
            buckets = sizes(resolution)
            of = [bucket_of(picture.width, picture.height, buckets) for picture in pictures]
            said.append(f"buckets of {resolution} pixels: {counted(f'{width}x{height}' for width, height in of)}")
            small = [p.name for p, bucket in zip(pictures, of, strict=True) if p.width < bucket[0] or p.height < bucket[1]]
            if small:
                where = f"their bucket of {resolution} pixels, and are enlarged"
                notes.append(f"{len(small)} pictures are smaller than {where} ({small[0]} is one)")
        said += [f'for example {p.name}: "{p.caption}"' for p in pictures[:: max(1, len(pictures) // EXAMPLES)][:EXAMPLES]]
    said += [f"note: {note}" for note in [*notes, *dataset.notes]]
    return said + [f"left out: {name}: {reason}" for name, reason in dataset.left_out]


def counted(values) -> str:
    """Each value and how often there is it: "text x 3, caption x 1"."""
    return ", ".join(
        f"{value} x {count}" for value, count in sorted(Counter(values).items(), key=lambda v: (-v[1], str(v[0])))
    )
