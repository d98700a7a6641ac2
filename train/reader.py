"""Reads a picture's attributes back. Trained on the generator's own pictures, used to measure and never in a loss."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from . import pictures
from .autoencoder import as_tensor, device
from .fitting import fit, flat_then_cosine, whole
from .latents import SIZES
from .scenes import SCENES, VALUES, labels

BATCH = 32
LEARNING_RATE = 2e-3
UNSEEN = 10**9  # far from the pictures that the autoencoder and the base learn from
SIDE = 112  # the side of a square of the area that every picture is brought to
FEATURES = 64
WEIGHTS = "reader.safetensors"


class Reader(nn.Module):
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
        scale = SIDE / (height * width) ** 0.5
        found = self.stages(F.interpolate(pixels, size=(round(height * scale), round(width * scale)), mode="area"))
        bands = torch.cat([pool(found, (4, 1)) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)], dim=1)
        return self.narrow(bands.flatten(1))

    def forward(self, pixels) -> list[torch.Tensor]:
        features = self.features(pixels)
        return [head(features) for head in self.heads]


def read(model: Reader, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """([B, attributes] indices into VALUES as the reader sees them, [B, FEATURES])."""
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.features(chunk) for chunk in pixels.split(32)])
        return torch.stack([head(features).argmax(-1) for head in model.heads], dim=-1).cpu(), features.cpu()


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/reader.safetensors and returns the loss of every step; held-out scenes are not left out here,
    since their attribute combinations must be readable to be scored."""
    set_seed(seed)
    model = Reader().to(device())
    sizes = list(SIZES)

    def loss_of(step):
        model.train()
        rng = np.random.default_rng([step, 2])
        size = sizes[rng.integers(len(sizes))]
        drawn = [pictures.sample(UNSEEN + step * BATCH + i, SCENES, *size) for i in range(BATCH)]
        scenes, images = zip(*drawn, strict=True)
        outputs = model(as_tensor(images).to(device()))
        targets = labels(scenes).to(device())
        return sum(F.cross_entropy(o, targets[:, i]) for i, o in enumerate(outputs))

    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    losses = fit(model, loss_of, optimizer, flat_then_cosine(steps), work / "reader-training", steps)
    with whole(work / WEIGHTS) as file:
        save_file(model.state_dict(), file)
    return losses


def load(folder: Path) -> Reader:
    """The reader that lies beside the model it is to read; ends the run with a sentence if the file is not one."""
    model, file = Reader(), folder / WEIGHTS
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"{file} does not hold a whole reader ({reason}): run `python -m train export`, which writes it anew")
    return model.eval()
