"""The scenes, pictures and captions that vega-nano learns from."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from train import text_encoding
from train.nano import captions, latents, metrics, render, scenes, text_encoders

NANO_DIR = Path(__file__).resolve().parents[1] / "vega" / "nano"


@pytest.fixture(scope="module")
def tokenizers():
    return text_encoding.load_tokenizers(NANO_DIR)


def test_held_out_combinations_are_never_drawn_for_training():
    training, held_out = scenes.split()
    assert not set(training) & set(held_out)
    assert set(training) | set(held_out) == set(scenes.SCENES)
    assert {render.sample(i, training)[0] for i in range(60)} <= set(training)
    # Each value of each attribute is still seen in training, or no model could know its word.
    for i, values in enumerate(scenes.VALUES):
        assert {scene[i] for scene in training} == set(values)


def test_every_time_and_terrain_is_equally_likely():
    rng = random.Random(0)
    training, _ = scenes.split()
    drawn = [scenes.sample_scene(training, rng) for _ in range(7000)]
    for values, key in ((scenes.TIMES, "time"), (scenes.TERRAINS, "terrain")):
        shares = [sum(getattr(s, key) == v for s in drawn) / 7000 for v in values]
        assert max(abs(share - 1 / len(values)) for share in shares) < 0.02


@pytest.mark.parametrize("size", [(128, 320), (320, 128), (128, 128), (256, 256)])
def test_picture_is_one_scene_of_the_asked_size(size):
    scene = scenes.Scene("day", "sea", "none", "none", "none", "clear", "sea", "none")
    pixels = np.asarray(render.render(scene, 5, *size)).astype(int)
    assert pixels.shape == (size[1], size[0], 3)
    # One horizon: going down, the sky turns to water exactly once.
    red = np.quantile(pixels[:, :, 0], 0.2, axis=1)  # of a row's water, where waves cover half of it
    falls = np.flatnonzero(red[2:] - red[:-2] < -40)
    assert 0 < falls[-1] - falls[0] + 1 <= 3
    assert 0.45 < falls[0] / size[1] < 0.65


def test_picture_depends_on_scene_and_seed_alone():
    scene = scenes.SCENES[100]
    first = render.render(scene, 7)
    random.seed(1)
    np.random.seed(1)
    assert first.tobytes() == render.render(scene, 7).tobytes()
    assert first.tobytes() != render.render(scene, 8).tobytes()


def test_complete_captions_tell_all_that_is_not_plain():
    """A caption that must be complete has a word for each attribute that differs from its plain value."""
    plain = {"none", "clear", "summer"}
    for i, scene in enumerate(scenes.SCENES):
        text = captions.caption(scene, random.Random(i), complete=True)
        for table, value in zip(captions.TABLES, scene, strict=True):
            words = [re.sub(r"^(an? |at )", "", w) for w in table[value]]
            if value not in plain and words and not (value == "night" and "starry night" in text):
                assert any(w in text for w in words) or "starry night" in text, (scene, text)


def test_noisy_captions_are_mostly_right():
    rng = random.Random(0)
    chosen = [rng.choice(scenes.SCENES) for _ in range(4000)]
    wrong = scenes.labels(chosen) != scenes.labels([captions.corrupt(scene, rng) for scene in chosen])
    expected = captions.CAPTION_NOISE * (1 - metrics.chance(scenes.labels(scenes.SCENES)))
    assert wrong.float().mean().item() == pytest.approx(expected, abs=0.01)
    # One attribute's mistake says nothing of another's.
    both = (wrong[:, 0] & wrong[:, 1]).float().mean().item()
    assert both == pytest.approx(wrong[:, 0].float().mean().item() * wrong[:, 1].float().mean().item(), abs=0.01)


def test_every_token_of_a_caption_is_known(tokenizers):
    """Every token of a caption is known, or is meant to be unknown."""
    known = set(text_encoders.known_tokens(tokenizers[0]).tolist())
    strangers = {i for word in captions.UNKNOWN for i in tokenizers[0](word).input_ids}
    rng = random.Random(3)
    for _ in range(3000):
        text = captions.caption(rng.choice(scenes.SCENES), rng)
        assert set(tokenizers[0](text).input_ids) <= known | strangers, text


def test_size_ids_are_in_sdxl_order_and_mostly_true():
    rows = latents.size_ids(192, 96, np.random.default_rng(0), 2000)
    truth = torch.tensor([96, 192, 0, 0, 96, 192])  # original height and width, crop, target height and width
    true = (rows == truth).all(1).float().mean()
    assert 0.65 < true < 0.75


def test_chance_is_what_shuffled_labels_score():
    truth = scenes.labels([scenes.SCENES[i % len(scenes.SCENES)] for i in range(2048)])
    other = truth[torch.randperm(2048, generator=torch.Generator().manual_seed(0))]
    assert metrics.chance(truth) == pytest.approx((truth == other).float().mean().item(), abs=0.02)
