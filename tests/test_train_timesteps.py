"""Timesteps that are drawn more often than others, as diffusers' scripts have it."""

import pytest
import torch

from train.timesteps import bias_weights, sample_timestep


@pytest.mark.parametrize(
    ("strategy", "portion", "biased"), [("later", 0.25, range(750, 1000)), ("earlier", 0.1, range(100)), ("later", 0.0, ())]
)
def test_a_portion_is_drawn_so_many_times_as_often(strategy, portion, biased):
    weights = bias_weights(strategy, 4.0, portion)
    usual = 1 / (4 * len(biased) + 1000 - len(biased))
    expected = torch.tensor([4 * usual if t in biased else usual for t in range(1000)])
    torch.testing.assert_close(weights, expected)
    generator = torch.Generator().manual_seed(0)
    drawn = [int(sample_timestep(weights, generator)) for _ in range(4000)]
    assert sum(t in biased for t in drawn) / 4000 == pytest.approx(float(expected[list(biased)].sum()), abs=0.03)
    assert min(drawn) >= 0
    assert max(drawn) < 1000


def test_without_a_bias_the_draws_are_what_they_were():
    """Saved runs go on bit for bit: one randint of the row's generator."""
    assert bias_weights("none", 4.0, 0.25) is None
    drawn = sample_timestep(None, torch.Generator().manual_seed(5))
    assert drawn == torch.randint(0, 1000, (), generator=torch.Generator().manual_seed(5))
