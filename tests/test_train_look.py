"""A look that code can measure, a sepia wash, on 12 pictures: what vega-nano draws after them, with a prior and without."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.__main__ import main
from train.base import NANO, NANO_LCM_LORA, open_base
from train.examples import EncodedTexts
from train.images import to_tensor
from train.nano import classifier, metrics, render
from train.nano.captions import caption
from train.nano.scenes import labels, split
from train.sampling import Sampler

TRIGGER = "an illustration of"  # of words outside the vocabulary nothing can be learned: their embeddings are all alike
WASH = np.array([1.0, 0.8, 0.55])  # red, green and blue of a white pixel
LIMIT = 0.13  # of an ordinary picture's distance from the wash 0.2 to 0.9
STEPS, PICTURES, CLASS_PICTURES, DRAWN = 300, 12, 96, 64


def plain(seed: int, scene) -> str:
    """A caption of the scene without the trigger's words."""
    rng = random.Random(seed)
    return next(text for text in iter(lambda: caption(scene, rng, complete=True), None) if "illustration" not in text)


def washed(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L"), float)[..., None]
    return Image.fromarray((grey * WASH).round().astype(np.uint8))


def distance(image: Image.Image) -> float:
    """How far a picture's colours are from the wash, as a share of its brightness."""
    pixels = np.asarray(image, float)
    grey = pixels.mean(-1, keepdims=True) / WASH.mean()
    return float(np.abs(pixels - grey * WASH).mean() / max(1.0, pixels.mean()))


def is_washed(image: Image.Image) -> bool:
    return distance(image) < LIMIT


def prepare(folder: Path) -> list[str]:
    """Writes the pictures with their captions; the prompts of the class pictures."""
    training, _ = split()
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(PICTURES):
        scene, image = render.sample(90_000 + k, training)
        washed(image).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(f"{TRIGGER} {plain(k, scene)}")
    rng = random.Random(5)
    return [plain(1000 + k, rng.choice(training)) for k in range(CLASS_PICTURES)]


def arguments(folder: Path, name: str, class_prompts: list[str]) -> list[str]:
    options = {"steps": STEPS, "learning-rate": 1e-3, "batch-size": 4, "gradient-accumulation-steps": 1, "save-every": 25}
    options |= {"caption-dropout": 0, "name": name, "output-dir": folder, "work": folder / "work"}
    given = ["lora", "vega-nano", str(folder / "pictures"), *(f"--{option}={value}" for option, value in options.items())]
    prior = ["--num-class-images", str(CLASS_PICTURES), "--class-prompt", *class_prompts] if class_prompts else []
    return [*given, *prior]


def measure(file: Path | None) -> dict[str, tuple[float, float]]:
    """With the embedded LCM-LoRA in 4 steps: shares of washed pictures, and of right attributes without the trigger."""
    _, held_out = split()
    scenes = [held_out[k % len(held_out)] for k in range(DRAWN)]
    prompts = [plain(2000 + k, scene) for k, scene in enumerate(scenes)]
    base = open_base("vega-nano")
    sampler = Sampler(base.unet(), base.vae, EncodedTexts(base.text_encoders(), base.tokenizers()), True, render.SIZE)
    with torch.no_grad():
        if file:
            tensors, alphas = sampler.pipe.lora_state_dict(file, unet_config=sampler.unet.config)
            sampler.pipe.load_lora_into_unet(tensors, alphas, sampler.unet, adapter_name="look")
        seeds = list(range(DRAWN))
        ordinary = sampler.sample_in_few_steps(NANO_LCM_LORA, prompts, seeds)
        triggered = sampler.sample_in_few_steps(NANO_LCM_LORA, [f"{TRIGGER} {prompt}" for prompt in prompts], seeds)
    seen, _ = classifier.classify(classifier.load(NANO), to_tensor(ordinary))
    shares = {
        "washed with the trigger": np.mean([is_washed(image) for image in triggered]),
        "washed without": np.mean([is_washed(image) for image in ordinary]),
    }
    return {name: (float(share), 0.0) for name, share in shares.items()} | {
        "attributes": metrics.accuracy(seen == labels(scenes))
    }


@pytest.mark.model
def test_the_wash_can_be_told():
    training, _ = split()
    images = [render.sample(80_000 + k, training)[1] for k in range(40)]
    assert all(is_washed(washed(image)) for image in images)
    assert np.mean([is_washed(image) for image in images]) < 0.1


@pytest.mark.model
@pytest.mark.soak
def test_prior_preservation_keeps_the_rest(tmp_path, record_property):
    """Without it the look comes over ordinary prompts and they are no longer obeyed; with it both stay as they were.

    In these 300 steps it holds the look back under the trigger as well: its share is recorded, and nothing is claimed of it.
    """
    class_prompts = prepare(tmp_path / "pictures")
    main(arguments(tmp_path, "prior", class_prompts))
    main(arguments(tmp_path, "none", []))
    base, prior, without = (measure(file) for file in (None, tmp_path / "prior.safetensors", tmp_path / "none.safetensors"))
    for name, found in (("base", base), ("prior", prior), ("no prior", without)):
        record_property(name, ", ".join(f"{key} {share:.3f}" for key, (share, _) in found.items()))
    assert base["washed without"][0] <= 0.05
    assert without["washed without"][0] >= 0.3
    assert prior["washed without"][0] <= 0.1
    kept, lost, margin = prior["attributes"], without["attributes"], base["attributes"][1]
    assert sum(kept) >= base["attributes"][0] - margin
    assert sum(lost) < base["attributes"][0] - margin
