"""The training loop on a GPU."""

import pytest
import torch
from linear_training import trained


@pytest.fixture(autouse=True)
def with_gradients():
    with torch.inference_mode(False), torch.enable_grad():
        yield


def test_a_moving_average_goes_on(tmp_path):
    """It is on the GPU again after accelerate has loaded it to the processor."""
    whole = trained(tmp_path / "whole", 4, "cuda", ema_decay=0.5)
    trained(tmp_path / "broken", 2, "cuda", ema_decay=0.5)
    torch.testing.assert_close(trained(tmp_path / "broken", 4, "cuda", ema_decay=0.5), whole, rtol=0, atol=0)
