"""What vega-nano must show, on few held-out prompts; `make soak` holds it to the whole of it (test_nano_scores.py)."""

from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler

from train import measures, reader
from train.evaluation import Artist, Setting, held_out_prompts, real
from train.scenes import labels

NANO = Path(__file__).resolve().parents[1] / "vega" / "nano"
PROMPTS = 40
FEW = 16  # prompts, where the margin is wide
SCENES, TEXTS = held_out_prompts(PROMPTS)
BASE = Setting(False, EulerDiscreteScheduler, 25, 8.0)  # its best scale in the card


def lora(steps: int) -> Setting:
    return Setting(True, LCMScheduler, steps)


@pytest.fixture(scope="module")
def artist():
    return Artist(NANO)


@pytest.fixture(scope="module")
def read():
    model = reader.load(NANO)
    return lambda pixels: reader.read(model, pixels)


@pytest.fixture(scope="module")
def seen(artist, read):
    """What the reader sees in the pictures of the first `count` TEXTS, drawn with a setting: [count, attributes]."""
    return cache(lambda setting, count=PROMPTS: read(artist.draw(TEXTS[:count], setting))[0])


@pytest.fixture(scope="module")
def accuracy(seen):
    return lambda setting: measures.accuracy(seen(setting) == labels(SCENES))[0]


def test_reader_reads_real_pictures(read):
    found, _ = read(real(SCENES))
    assert measures.accuracy(found == labels(SCENES))[0] >= 0.98


def test_base_draws_what_its_prompt_says(accuracy):
    assert accuracy(BASE) >= 0.92


@pytest.mark.parametrize(("steps", "share"), [(4, 0.98), (2, 0.95), (1, 0.88)])
def test_lcm_lora_keeps_the_base_s_accuracy(accuracy, steps, share):
    assert accuracy(lora(steps)) >= share * accuracy(BASE)


@pytest.mark.parametrize(("steps", "points"), [(2, 0.08), (4, 0.05)])
def test_it_is_the_lora_and_not_the_sampler(accuracy, steps, points):
    assert accuracy(lora(steps)) >= accuracy(Setting(False, LCMScheduler, steps)) + points


@pytest.mark.parametrize(
    "rival", [Setting(False, EulerDiscreteScheduler, *s) for s in ((1,), (2,), (4,), (2, 3.0))], ids=str
)
def test_lcm_lora_wins_at_equal_unet_calls(seen, rival):
    truth = labels(SCENES[:FEW])
    ours, theirs = seen(lora(rival.calls))[:FEW], seen(rival, FEW)
    assert measures.accuracy(ours == truth)[0] > measures.accuracy(theirs == truth)[0]


def test_another_prompt_s_picture_scores_at_chance(seen):
    truth = labels(SCENES)
    others = ~torch.eye(PROMPTS, dtype=torch.bool)
    drawn, alike = ((found[:, None] == truth[None]).float().mean(-1)[others].mean() for found in (seen(lora(4)), truth))
    assert drawn.item() == pytest.approx(alike.item(), abs=0.03)


def test_seeds_give_different_pictures(artist, read):
    drawn = read(artist.draw(TEXTS[:1] * 32, lora(4)))[1]
    assert measures.spread(drawn) >= 0.7 * measures.spread(read(real(SCENES[:1] * 32))[1])


@pytest.mark.parametrize("size", [(96, 192), (192, 96), (192, 192)])
def test_other_sizes_hold_one_sensible_picture(artist, read, size):
    found, _ = read(artist.draw(TEXTS[:FEW], lora(4), *size))
    assert measures.accuracy(found == labels(SCENES[:FEW]))[0] >= 0.8
