"""What vega-nano must show, on few held-out prompts; `make soak` holds it to the whole of it (test_nano_scores.py)."""

from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler

from train.nano import classifier, metrics
from train.nano.evaluation import PipelineSampler, SamplingConfig, held_out_prompts, real, reconstruct
from train.nano.scenes import labels

pytestmark = pytest.mark.model
NANO_DIR = Path(__file__).resolve().parents[1] / "vega" / "nano"
PROMPTS = 16
FEW = 8  # prompts, where the margin is wide
EARLIER_PSNR = 30.14  # dB, of the same FEW pictures
SCENES, TEXTS = held_out_prompts(PROMPTS)
BASE = SamplingConfig(False, EulerDiscreteScheduler, 25, 8.0)  # its best scale in the card


def lora(steps: int) -> SamplingConfig:
    return SamplingConfig(True, LCMScheduler, steps)


@pytest.fixture(scope="module")
def sampler():
    return PipelineSampler(NANO_DIR)


@pytest.fixture(scope="module")
def classify():
    model = classifier.load(NANO_DIR)
    return lambda pixels: classifier.classify(model, pixels)


@pytest.fixture(scope="module")
def predicted(sampler, classify):
    """The attributes in the pictures of TEXTS, drawn with a config: [PROMPTS, attributes]."""
    return cache(lambda config: classify(sampler.draw(TEXTS, config))[0])


@pytest.fixture(scope="module")
def accuracy(predicted):
    return lambda config: metrics.accuracy(predicted(config) == labels(SCENES))[0]


def test_classifier_recognises_real_pictures(classify):
    found, _ = classify(real(SCENES))
    assert metrics.accuracy(found == labels(SCENES))[0] >= 0.98


def test_the_autoencoder_is_two_decibels_sharper_than_it_was(sampler):
    """Than that of vega-nano at 128 pixels, on the same pictures."""
    pixels = real(SCENES[:FEW])
    rebuilt = reconstruct(sampler.pipe.vae, pixels).clamp(-1, 1)
    of_pictures = 10 * torch.log10(4 / (rebuilt - pixels).square().mean((1, 2, 3)))
    assert of_pictures.mean() >= EARLIER_PSNR + 2


def test_base_draws_what_its_prompt_says(accuracy):
    assert accuracy(BASE) >= 0.92


@pytest.mark.parametrize(("steps", "share"), [(4, 0.98), (2, 0.95), (1, 0.88)])
def test_lcm_lora_keeps_the_base_s_accuracy(accuracy, steps, share):
    assert accuracy(lora(steps)) >= share * accuracy(BASE)


@pytest.mark.parametrize(("steps", "points"), [(2, 0.08), (4, 0.05)])
def test_it_is_the_lora_and_not_the_sampler(accuracy, steps, points):
    assert accuracy(lora(steps)) >= accuracy(SamplingConfig(False, LCMScheduler, steps)) + points


@pytest.mark.parametrize(
    "rival", [SamplingConfig(False, EulerDiscreteScheduler, *s) for s in ((1,), (2,), (4,), (2, 3.0))], ids=str
)
def test_lcm_lora_wins_at_equal_unet_calls(predicted, rival):
    truth = labels(SCENES)
    ours, theirs = predicted(lora(rival.unet_calls)), predicted(rival)
    assert metrics.accuracy(ours == truth)[0] > metrics.accuracy(theirs == truth)[0]


def test_another_prompt_s_picture_scores_at_chance(predicted):
    truth = labels(SCENES)
    others = ~torch.eye(PROMPTS, dtype=torch.bool)
    drawn, alike = ((found[:, None] == truth[None]).float().mean(-1)[others].mean() for found in (predicted(lora(4)), truth))
    assert drawn.item() == pytest.approx(alike.item(), abs=0.03)


def test_seeds_give_different_pictures(sampler, classify):
    drawn, rendered = (
        classify(pictures)[1] for pictures in (sampler.draw(TEXTS[:1] * PROMPTS, lora(4)), real(SCENES[:1] * PROMPTS))
    )
    assert metrics.mean_pairwise_distance(drawn) >= 0.7 * metrics.mean_pairwise_distance(rendered)


@pytest.mark.parametrize("size", [(128, 128), (320, 128), (128, 320), (320, 320)])
def test_other_sizes_hold_one_sensible_picture(sampler, classify, size):
    found, _ = classify(sampler.draw(TEXTS, lora(4), *size))
    assert metrics.accuracy(found == labels(SCENES))[0] >= 0.9
