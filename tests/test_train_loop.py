"""The loop that everything is trained by."""

import pytest
import torch
from linear_training import trained


def test_a_moving_average_goes_on(tmp_path):
    """It ends as that of an unbroken run, to the last bit."""
    whole = trained(tmp_path / "whole", 4, ema_decay=0.5)
    trained(tmp_path / "broken", 2, ema_decay=0.5)
    assert torch.equal(trained(tmp_path / "broken", 4, ema_decay=0.5), whole)
    assert not torch.equal(trained(tmp_path / "plain", 4), whole)


def test_what_fails_at_a_sample_costs_no_step(tmp_path):
    """The state is saved before anything is drawn."""

    def draw():
        raise MemoryError

    with pytest.raises(MemoryError):
        trained(tmp_path, 3, save_every=3, log_samples=draw)
    assert (tmp_path / "latest").read_text() == "3"
    assert torch.equal(trained(tmp_path, 3), trained(tmp_path / "whole", 3))
