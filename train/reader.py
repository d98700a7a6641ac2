"""Reads a picture's attributes back. Trained on the generator's own pictures, used to measure and never in a loss."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from . import pictures
from .autoencoder import as_tensor
from .resuming import resumable_steps

BATCH = 32
LEARNING_RATE = 2e-3
UNSEEN = 10**9  # far from the pictures that the autoencoder and the base learn from


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
        self.heads = nn.ModuleList(nn.Linear(widths[-1] * 8, len(values)) for values in pictures.VALUES)

    def forward(self, pixels):
        features = self.stages(F.interpolate(pixels, size=96, mode="area"))
        bands = torch.cat([pool(features, (4, 1)) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)], dim=1)
        return [head(bands.flatten(1)) for head in self.heads]


def labels(scenes) -> torch.Tensor:
    """[len(scenes), attributes] indices into pictures.VALUES."""
    return torch.tensor([[v.index(x) for v, x in zip(pictures.VALUES, scene, strict=True)] for scene in scenes])


def correct(model: AttributeClassifier, pixels: torch.Tensor, scenes) -> torch.Tensor:
    """[len(scenes), attributes] booleans: which attributes the classifier reads as the scenes have them."""
    model.eval()
    with torch.no_grad():
        guesses = [torch.stack([o.argmax(-1) for o in model(chunk)], dim=-1) for chunk in pixels.split(32)]
    return torch.cat(guesses).cpu() == labels(scenes)


def blurred(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Half of the time softer, and noisy by a little: a model's pictures are, and must not be misread only for that."""
    if rng.random() < 0.5:
        small = F.interpolate(pixels, scale_factor=float(rng.choice([0.375, 0.5, 0.75])), mode="area")
        pixels = F.interpolate(small, size=pixels.shape[-2:], mode="bilinear")
    return pixels + 0.03 * torch.randn_like(pixels)


def train(work: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/classifier.pt and returns the loss of every step; held-out scenes are not left out here,
    since their attribute combinations must be readable to be scored."""
    accelerator = Accelerator()
    set_seed(seed)
    model = AttributeClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    losses = []
    for step in resumable_steps(accelerator, work / "classifier-training", steps, every=100):
        rng = np.random.default_rng([step, 2])
        scenes, images = zip(
            *(pictures.sample(10**9 + step * BATCH + i, pictures.SCENES) for i in range(BATCH)), strict=True
        )
        outputs = model(blurred(as_tensor(images).to(accelerator.device), rng))
        targets = labels(scenes).to(accelerator.device)
        loss = sum(F.cross_entropy(o, targets[:, i]) for i, o in enumerate(outputs))
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}", flush=True)
    torch.save(accelerator.unwrap_model(model).state_dict(), work / "classifier.pt")
    return losses


def load(work: Path) -> AttributeClassifier:
    model = AttributeClassifier()
    model.load_state_dict(torch.load(work / "classifier.pt", weights_only=True))
    return model.eval()
