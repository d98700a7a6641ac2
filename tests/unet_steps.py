"""Steps of the optimizer on a UNet: random batches for any family, and our loop on all of its weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from train import training_loop
from train.denoising import Batch
from train.optimization import make_optimizer, schedule

SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def batches(config, count: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    found = []
    for k in range(count):
        pooled = normal(2, 64) if config.addition_embed_type else None
        time_ids = torch.tensor([[64, 96, 0, 8 * k, 64, 64], [99, 77, 4, 0, 64, 64]])
        timesteps = torch.randint(0, 1000, (2,), generator=generator)
        text = normal(2, 7, config.cross_attention_dim), pooled
        found.append(Batch(normal(2, 4, 8, 8), normal(2, 4, 8, 8), timesteps, text, time_ids))
    return found


def trained(unet: nn.Module, compute_loss: Callable, rate: float, folder: Path, steps: int = 1, **options) -> list[float]:
    """The losses of a run on the whole UNet, which ends with its weights; options: of the loop, or use_adafactor."""
    groups = [{"params": list(unet.requires_grad_(True).parameters()), "lr": rate}]
    optimizer = make_optimizer(groups, use_adafactor=options.pop("use_adafactor", False))
    learned, rates = nn.ParameterList(groups[0]["params"]), schedule("constant", steps)
    return training_loop.train(learned, compute_loss, optimizer, rates, folder / "state", steps, **options)
