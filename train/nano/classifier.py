"""A classifier of a picture's attributes. Trained on rendered pictures, used for the evaluation and never in a loss."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .. import training_loop
from ..device import default_device
from ..files import atomic_write
from ..images import to_tensor
from ..training_loop import constant_then_cosine
from . import latents, render, seeds
from .scenes import SCENES, VALUES, labels

BATCH_SIZE = 32
LEARNING_RATE = 2e-3
INPUT_SIDE_PIXELS = 112  # every picture is scaled to the area of this square
FEATURES = 64
WEIGHTS = "reader.safetensors"  # the name that vega/nano has been published with


class AttributeClassifier(nn.Module):
    """A small CNN with one head for each attribute of a scene."""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, 64, 96)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                    nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(),
                )
                for a, b in zip(widths, widths[1:], strict=False)
            )
        )  # fmt: skip
        # Rows matter (a sky's moon, a lake's waves), so the mean and the maximum are taken within four bands.
        self.narrow = nn.Sequential(nn.Linear(widths[-1] * 8, FEATURES), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(FEATURES, len(values)) for values in VALUES)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in -1..1 -> [B, FEATURES]."""
        height, width = pixels.shape[-2:]
        scale = INPUT_SIDE_PIXELS / (height * width) ** 0.5
        maps = self.stages(F.interpolate(pixels, size=(round(height * scale), round(width * scale)), mode="area"))
        bands = torch.cat([pool(maps, (4, 1)) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)], dim=1)
        return self.narrow(bands.flatten(1))

    def forward(self, pixels) -> list[torch.Tensor]:
        features = self.features(pixels)
        return [head(features) for head in self.heads]


def classify(model: AttributeClassifier, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, 3, H, W] in -1..1 -> ([B, attributes] predicted indices into VALUES, [B, FEATURES])."""
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.features(chunk) for chunk in pixels.split(32)])
        return torch.stack([head(features).argmax(-1) for head in model.heads], dim=-1).cpu(), features.cpu()


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/WEIGHTS and returns the loss of every step. Held-out scenes are part of it: to be scored, their
    attribute combinations must be recognised."""
    set_seed(seed)
    device = default_device()
    model = AttributeClassifier().to(device)
    sizes = list(latents.SIZES)

    def compute_loss(step):
        model.train()
        rng = np.random.default_rng([step, 2])
        size = sizes[rng.integers(len(sizes))]
        first = seeds.CLASSIFIER + step * BATCH_SIZE
        rendered = [render.sample(first + i, SCENES, *size) for i in range(BATCH_SIZE)]
        scenes, images = zip(*rendered, strict=True)
        outputs = model(to_tensor(images).to(device))
        targets = labels(scenes).to(device)
        return sum(F.cross_entropy(o, targets[:, i]) for i, o in enumerate(outputs))

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    folder = work / "classifier-training"
    losses = training_loop.train(model, compute_loss, optimizer, constant_then_cosine(steps), folder, steps)
    with atomic_write(work / WEIGHTS) as file:
        save_file(model.state_dict(), file)
    return losses


def load(folder: Path) -> AttributeClassifier:
    """The classifier in an exported folder; ends the run with a sentence if its file is broken."""
    model, file = AttributeClassifier(), folder / WEIGHTS
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        sys.exit(
            f"{file} does not hold a whole classifier ({reason}): run `python -m train.nano export`, which writes it anew"
        )
    return model.eval()
