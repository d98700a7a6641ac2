"""Offset noise, as diffusers' and kohya's scripts have it."""

import pytest
import torch
import training_runs as runs

from train.examples import random_noise

SHAPE = torch.Size((4, 8, 8))


def noise(offset: float, seed: int) -> torch.Tensor:
    return random_noise(SHAPE, offset, torch.Generator().manual_seed(seed))


def test_without_an_offset_the_noise_is_what_it_was():
    """Runs of older versions go on bit for bit."""
    assert torch.equal(noise(0, 5), torch.randn(SHAPE, generator=torch.Generator().manual_seed(5)))


def test_an_offset_moves_each_channel_as_a_whole():
    moved = torch.stack([noise(0.1, seed) - noise(0, seed) for seed in range(500)])
    torch.testing.assert_close(moved, moved[..., :1, :1].expand_as(moved), rtol=0, atol=1e-6)
    offsets = moved[..., 0, 0]
    assert float(offsets.std()) == pytest.approx(0.1, rel=0.05)
    assert (torch.corrcoef(offsets.T) - torch.eye(4)).abs().max() < 0.2


@pytest.mark.model
@pytest.mark.parametrize("verb", ["lora", "finetune"])
def test_it_reaches_the_objective(tmp_path, monkeypatch, verb):
    """Of pictures and of class pictures."""
    seen = [batch.noise for batch in runs.objective_batches(tmp_path, monkeypatch, verb, "--noise-offset=100")]
    assert len(seen) == (6 if verb == "lora" else 3)
    assert all(30 < float(noise.mean((2, 3)).std()) < 300 for noise in seen)
