"""The training loop on a model of five numbers, which takes no time."""

from pathlib import Path

import torch
from torch import nn

from train import training_loop


def trained(folder: Path, steps: int, device: str = "cpu", **options) -> torch.Tensor:
    """The weights after so many steps, with those of earlier calls in the folder."""
    torch.manual_seed(0)
    module = nn.Linear(4, 1).to(device)

    def compute_loss(number: int) -> torch.Tensor:
        return module(torch.full((1, 4), 1.0 + number, device=device)).square().mean()

    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    training_loop.train(module, compute_loss, optimizer, lambda step: 1.0, folder, steps, **options)
    return module.weight.detach()
