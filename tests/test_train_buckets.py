"""Buckets, crops and their time ids, and the order of batches."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.cache import Cache
from train.data.batches import Batches
from train.data.buckets import bucket_of, resize_and_crop, sizes
from train.data.dataset import TrainingImage
from train.examples import Examples
from train.prompts import PromptBatches

# kohya's library/model_util.py: make_bucket_resolutions((1024, 1024), min_size=256, max_size=2048, divisible=64).
KOHYA_1024 = """256x2048 320x2048 384x2048 448x2048 512x1856 512x1920 512x1984 512x2048 576x1664 576x1728 576x1792 640x1536
640x1600 704x1408 704x1472 768x1280 768x1344 832x1216 896x1152 960x1088 1024x1024"""


def both_ways(sizes: str) -> set[tuple[int, int]]:
    found = {tuple(map(int, size.split("x"))) for size in sizes.split()}
    return found | {(height, width) for width, height in found}


def test_buckets_are_kohyas():
    assert set(sizes(1024)) == both_ways(KOHYA_1024)


@pytest.mark.parametrize("resolution", [96, 128, 192, 256, 512, 768, 1024])
def test_buckets_fit_the_unet_and_the_area(resolution):
    found = sizes(resolution)
    assert (resolution, resolution) in found
    for width, height in found:
        assert width % 32 == height % 32 == 0
        assert width * height <= resolution**2


@pytest.mark.parametrize(
    ("size", "bucket"), [((3000, 2000), (1216, 832)), ((500, 500), (1024, 1024)), ((9, 90), (256, 2048))]
)
def test_the_nearest_shape(size, bucket):
    assert bucket_of(*size, sizes(1024)) == bucket


def coordinates(width: int, height: int) -> Image.Image:
    """Each pixel holds its own place as shares of 250: x in red, y in green."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray((np.stack([x, y, 0 * x], -1) * 250).round().astype(np.uint8))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [(601, 399), (400, 1000), (192, 192), (90, 60), (1000, 310)])
@pytest.mark.parametrize("bucket", [(192, 128), (128, 192), (160, 160)])
def test_time_ids_tell_where_pixels_are_from(size, bucket, mirrored):
    crop = resize_and_crop(coordinates(*size), bucket, mirrored)
    assert crop.image.size == bucket
    assert crop.original_size == size[::-1]
    assert crop.target_size == bucket[::-1]
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    width, height = round(size[0] * scale), round(size[1] * scale)
    found = np.asarray(crop.image).astype(float)[..., :2] / 250
    top, left = crop.crop_top_left
    x = (left + np.arange(bucket[0]) + 0.5) / width
    x = 1 - x if mirrored else x  # of the mirrored picture
    y = (top + np.arange(bucket[1]) + 0.5) / height
    inner = slice(4, -4)  # at a picture's own edges the filter has nothing to average with
    assert np.abs(found[inner, inner, 0] - x[None, inner]).max() < 1.5 / 250
    assert np.abs(found[inner, inner, 1] - y[inner, None]).max() < 1.5 / 250
    assert 0 <= left <= width - bucket[0]
    assert 0 <= top <= height - bucket[1]


def test_resizing_is_that_of_pillow():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8))
    whole = noise.resize((213, 128), Image.Resampling.LANCZOS).crop((42, 0, 170, 128))
    crop = resize_and_crop(noise, (128, 128))
    assert np.abs(np.asarray(crop.image).astype(int) - np.asarray(whole)).max() <= 1
    assert crop.crop_top_left == (0, 42)


def test_a_strip_takes_no_memory():
    assert resize_and_crop(Image.new("RGB", (1, 60_000)), (256, 2048)).image.size == (256, 2048)


def test_every_picture_is_in_every_epoch():
    buckets = [(64, 64)] * 5 + [(32, 64)] + [(96, 32)] * 8
    repeats = [1, 2, 1, 1, 3, 1] + [1] * 8
    batches = Batches(buckets, repeats, 4, seed=3)
    assert batches.an_epoch == 2 + 1 + 2
    for epoch in range(3):
        found = [batches(epoch * 5 + k) for k in range(5)]
        assert all(len(batch) == 4 and len({buckets[p] for p in batch}) == 1 for batch in found)
        counts = Counter(p for batch in found for p in batch)
        assert all(counts[p] >= times for p, times in enumerate(repeats))
        assert sum(counts.values()) == 20
    orders = {str([batches(epoch * 5 + k) for k in range(5)]) for epoch in range(3)}
    assert len(orders) == 3
    assert Batches(buckets, repeats, 4, seed=3)(13) == batches(13)
    assert any(Batches(buckets, repeats, 4, seed=4)(k) != batches(k) for k in range(5))


def test_one_picture_fills_a_batch():
    assert Batches([(64, 64)], [1], 3, seed=0)(7) == [0, 0, 0]


def test_each_picture_is_learned_at_each_resolution(tmp_path):
    """Each once an epoch, in its bucket of each, without those of one resolution beside those of another."""
    shapes = {"square": (200, 200), "wide": (300, 150)}
    pictures = [TrainingImage(Path(name), name, name, "", 1, None, *shape, name) for name, shape in shapes.items()]
    examples = Examples(pictures, [128, 64], Cache(tmp_path), "", None, 1, seed=0)
    wanted = {(picture.name, bucket) for picture, bucket, _ in examples.wanted()}
    assert wanted == {("square", (128, 128)), ("square", (64, 64)), ("wide", (160, 96)), ("wide", (96, 32))}
    epoch = [examples.batches(number) for number in range(4)]
    assert {(examples.pictures[k].name, examples.buckets[k]) for (k,) in epoch} == wanted


def test_each_prompt_is_drawn_at_each_resolution():
    texts = lambda prompts: (torch.tensor([[float(len(prompt))] for prompt in prompts]), None)  # noqa: E731
    batches = PromptBatches(["a", "bb", "ccc"], texts, 3, [128, 64], 0, torch.device("cpu"))
    found = [batches(number) for number in range(2)]
    assert sorted(batch.latents.shape[-1] for batch in found) == [8, 16]
    for batch in found:
        side = 8 * batch.latents.shape[-1]
        assert batch.time_ids.tolist() == [[side, side, 0, 0, side, side]] * 3
        assert sorted(batch.text[0].flatten().tolist()) == [1, 2, 3]
