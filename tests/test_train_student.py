"""What a student of half of vega-nano gains by its teacher's weights, and by the distances to its teacher's features."""

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import training_runs as runs
from diffusers import DDPMScheduler, UNet2DConditionModel

from train import block_plan, student_unet
from train.__main__ import parser
from train.base import NANO, open_base
from train.denoising import denoising_loss
from train.diffusion import NOISE_SCHEDULE
from train.distillation import distillation_loss
from train.examples import EncodedTexts
from train.full_unet import FullUnetRun, start
from train.images import to_tensor
from train.nano import classifier, evaluation, metrics, render
from train.nano.captions import caption
from train.nano.scenes import Scene, labels, split
from train.sampling import Sampler

PICTURES, HELD_OUT, SIDE, DRAWN, SEEDS = 400, 64, 128, 64, (0, 1, 2)
T_OF_THREE = 4.303  # Student's t of 95 % with two degrees of freedom
# Name -> (whether it begins with its teacher's weights, --output-weight, --feature-weight).
KINDS = {
    "random weights": (False, 0.5, 0.5),
    "teacher's weights": (True, 0.5, 0.5),
    "teacher's weights, no features": (True, 0.5, 0.0),
}
SETTINGS = {"steps": 150, "batch-size": 8, "resolution": SIDE, "gradient-accumulation-steps": 1, "save-every": 150}
SETTINGS |= {"learning-rate": 1e-3, "lr-scheduler": "cosine", "ema-decay": 0.98}


def write_pictures(folder: Path, scenes: list[Scene], count: int) -> None:
    folder.mkdir(parents=True)
    for k, scene in enumerate(random.Random(0).choices(scenes, k=count)):
        render.render(scene, 70_000 + k, SIDE, SIDE).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text(caption(scene, random.Random(k)))


def learn(folder: Path, kind: str, seed: int) -> Path:
    """The folder of a student after as many steps as all others."""
    from_teacher, output, feature = KINDS[kind]
    settings = SETTINGS | {"to": runs.half_plan(folder), "output-weight": output, "feature-weight": feature, "seed": seed}
    settings |= {"name": f"{kind} {seed}".replace("'", "").replace(",", ""), "output-dir": folder, "work": folder / "work"}
    given = [f"--{name}={value}" for name, value in settings.items()]
    options = parser().parse_args(["distill", "vega-nano", str(folder / "pictures"), *given])
    training = start(options)
    made = student_unet.make_student(block_plan.read(options.to), training.base)

    def prepare():
        unet = student_unet.load(made, training.base, torch.float32)
        if not from_teacher:
            torch.manual_seed(seed)
            unet = UNet2DConditionModel.from_config(made.config)
        teacher, scheduler = training.unet(), DDPMScheduler(**NOISE_SCHEDULE)
        given = unet, teacher, made.features, scheduler
        return unet, partial(distillation_loss, *given, output_weight=output, feature_weight=feature)

    FullUnetRun(training, 1).run(prepare)
    return training.folder.output


def held_out_loss(folder: Path, model: Path) -> float:
    """The mean squared error of the noise in pictures that it did not learn from."""
    given = [f"--resolution={SIDE}", f"--batch-size={HELD_OUT}", "--caption-dropout=0", f"--work={folder / 'work'}"]
    options = parser().parse_args(["finetune", "vega-nano", str(folder / "held-out"), "--name=x", *given])
    run = FullUnetRun(start(options), 1)
    run.fill_caches()
    unet = open_base(str(model)).unet()
    with torch.no_grad():
        losses = [denoising_loss(unet, DDPMScheduler(**NOISE_SCHEDULE), run.examples(number)).item() for number in range(4)]
    return float(np.mean(losses))


def attributes(model: Path) -> float:
    """The share of right attributes in pictures of prompts that it did not learn from."""
    scenes, prompts = evaluation.held_out_prompts(DRAWN)
    base = open_base(str(model))
    sampler = Sampler(base.unet(), base.vae, EncodedTexts(base.text_encoders(), base.tokenizers()), True, SIDE)
    with torch.no_grad():
        images = sampler.sample(prompts, list(range(DRAWN)))
    found, _ = classifier.classify(classifier.load(NANO), to_tensor(images))
    return metrics.accuracy(found == labels(scenes))[0]


@pytest.mark.model
@pytest.mark.soak
def test_its_teachers_weights_are_worth_it(tmp_path, record_property):
    """After equal steps of three seeds each the intervals are apart; what the distances add is reported."""
    training, held_out = split()
    write_pictures(tmp_path / "pictures", training, PICTURES)
    write_pictures(tmp_path / "held-out", held_out, HELD_OUT)
    intervals = {}
    for kind in KINDS:
        models = [learn(tmp_path, kind, seed) for seed in SEEDS]
        for measure, values in (
            ("loss", [held_out_loss(tmp_path, model) for model in models]),
            ("attributes", [attributes(model) for model in models]),
        ):
            mean, margin = np.mean(values), T_OF_THREE * np.std(values, ddof=1) / len(values) ** 0.5
            record_property(f"{kind}: {measure}", f"{mean:.4f} ± {margin:.4f}")
            intervals[kind, measure] = mean, margin
    record_property("vega-nano: attributes", f"{attributes(NANO):.4f}")
    record_property("vega-nano: loss", f"{held_out_loss(tmp_path, NANO):.4f}")
    for measure, better in (("loss", -1), ("attributes", 1)):
        (mean, margin), (other, other_margin) = (
            intervals[kind, measure] for kind in ("teacher's weights", "random weights")
        )
        assert better * (mean - other) > margin + other_margin, measure
