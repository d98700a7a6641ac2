"""Aspect-ratio buckets: the sizes that pictures are resized and cropped to, and what of a picture that leaves.

The sizes are kohya's (library/model_util.py, make_bucket_resolutions): about the area of a square of `resolution`.
"""

from typing import NamedTuple

from PIL import Image

STEP_PIXELS = 64
SMALL_STEP_PIXELS = 32  # below SMALL_RESOLUTION, where steps of 64 would leave few sizes
SMALL_RESOLUTION = 512
MIN_SIDE_RATIO, MAX_SIDE_RATIO = 0.25, 2.0  # of the resolution: the shortest and the longest side


class Crop(NamedTuple):
    """A picture as it is trained on, and SDXL's time ids of it, all in pixels."""

    image: Image.Image
    original_size: tuple[int, int]  # (height, width) of the upright picture
    crop_top_left: tuple[int, int]  # of the picture after resizing and, where it is, mirroring
    target_size: tuple[int, int]  # (height, width) of the bucket


def sizes(resolution: int) -> list[tuple[int, int]]:
    """The (width, height) of all buckets, sorted."""
    step = STEP_PIXELS if resolution >= SMALL_RESOLUTION else SMALL_STEP_PIXELS
    least, most = (max(step, int(resolution * share) // step * step) for share in (MIN_SIDE_RATIO, MAX_SIDE_RATIO))
    side = max(step, resolution // step * step)
    found = {(side, side)}
    for width in range(least, most + 1, step):
        height = min(most, resolution * resolution // width // step * step)
        if height >= least:
            found |= {(width, height), (height, width)}
    return sorted(found)


def square(resolution: int) -> int:
    """The side of the square one."""
    return bucket_of(1, 1, sizes(resolution))[0]


def bucket_of(width: int, height: int, buckets: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect ratio is the nearest; of those of the same, the largest."""
    return min(buckets, key=lambda bucket: (abs(bucket[0] / bucket[1] - width / height), -bucket[0]))


def resize_and_crop(image: Image.Image, bucket: tuple[int, int], mirrored: bool = False) -> Crop:
    """The picture resized to cover the bucket (width, height), its middle cut out, and mirrored where that is asked."""
    scale = max(bucket[0] / image.width, bucket[1] / image.height)
    width, height = (max(b, round(side * scale)) for b, side in zip(bucket, image.size, strict=True))
    left, top = (width - bucket[0]) // 2, (height - bucket[1]) // 2
    # Only what is kept is computed: a strip of one by 5000 pixels, resized whole, would fill the memory.
    x, y = image.width / width, image.height / height
    kept = (left * x, top * y, (left + bucket[0]) * x, (top + bucket[1]) * y)
    resized = image.resize(bucket, Image.Resampling.LANCZOS, box=kept)
    if mirrored:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left = width - left - bucket[0]
    return Crop(resized, (image.height, image.width), (top, left), bucket[::-1])
