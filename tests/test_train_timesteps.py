"""Timesteps that are drawn more often than others, as diffusers' scripts have it; a bias that does nothing is refused."""

import pytest
import torch
import training_runs as runs

from train.__main__ import main, parser
from train.timesteps import sample_timestep, timestep_weights


def bias(strategy: str, multiplier: float, portion: float) -> list[str]:
    options = {"strategy": strategy, "multiplier": multiplier, "portion": portion}
    return [f"--timestep-bias-{name}={value}" for name, value in options.items()]


def weights(*flags: str):
    return timestep_weights(parser().parse_args(["lora", "base", "pictures", "--name=x", *flags]))


@pytest.mark.parametrize(
    ("strategy", "portion", "biased"), [("later", 0.25, range(750, 1000)), ("earlier", 0.1, range(100))]
)
def test_a_portion_is_drawn_so_many_times_as_often(strategy, portion, biased):
    found = weights(*bias(strategy, 4, portion))
    usual = 1 / (4 * len(biased) + 1000 - len(biased))
    expected = torch.tensor([4 * usual if t in biased else usual for t in range(1000)])
    torch.testing.assert_close(found, expected)
    generator = torch.Generator().manual_seed(0)
    drawn = [int(sample_timestep(found, generator)) for _ in range(4000)]
    assert sum(t in biased for t in drawn) / 4000 == pytest.approx(float(expected[list(biased)].sum()), abs=0.03)
    assert min(drawn) >= 0
    assert max(drawn) < 1000


def test_without_a_bias_the_draws_are_what_they_were():
    """Runs of older versions go on bit for bit."""
    assert weights() is None
    generator = torch.Generator().manual_seed(5)
    assert [int(sample_timestep(None, generator)) for _ in range(4)] == [411, 814, 767, 885]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--timestep-bias-multiplier=9"], "give earlier or later"),
        (["--timestep-bias-portion=0.1"], "give earlier or later"),
        (["--timestep-bias-strategy=later"], "a --timestep-bias-multiplier from 0.001 to 1000 that is not 1"),
        (bias("later", 1e38, 0.25), "a --timestep-bias-multiplier from 0.001 to 1000 that is not 1"),
        (bias("earlier", 0, 0.25), "a --timestep-bias-multiplier from 0.001 to 1000 that is not 1"),
        (bias("later", 4, 0), "give a share between 0 and 1"),
        (bias("later", 4, 1), "give a share between 0 and 1"),
    ],
)
@pytest.mark.parametrize("verb", ["lora", "finetune"])
def test_a_bias_that_does_nothing_is_refused(tmp_path, verb, flags, words):
    with pytest.raises(SystemExit) as exit_:
        main([verb, "vega-nano", str(tmp_path), "--name=x", f"--output-dir={tmp_path}", *flags])
    assert words in str(exit_.value)


@pytest.mark.model
@pytest.mark.parametrize("verb", ["lora", "finetune"])
def test_pictures_and_class_pictures_are_biased(tmp_path, monkeypatch, verb):
    """What reaches the objective is of the portion that is drawn a thousand times as often: 99 of 100."""
    seen = [batch.timesteps for batch in runs.objective_batches(tmp_path, monkeypatch, verb, *bias("earlier", 1000, 0.1))]
    assert len(seen) == (6 if verb == "lora" else 3)
    assert (torch.cat(seen) < 100).float().mean() > 0.8
