"""Training on a GPU."""

import pytest
import torch
import training_runs as runs
from linear_training import trained

from train.__main__ import parser
from train.training_run import TrainingRun


@pytest.fixture(autouse=True)
def with_gradients():
    with torch.inference_mode(False), torch.enable_grad():
        yield


def test_a_moving_average_goes_on(tmp_path):
    """It is on the GPU again after accelerate has loaded it to the processor."""
    whole = trained(tmp_path / "whole", 4, "cuda", ema_decay=0.5)
    trained(tmp_path / "broken", 2, "cuda", ema_decay=0.5)
    torch.testing.assert_close(trained(tmp_path / "broken", 4, "cuda", ema_decay=0.5), whole, rtol=0, atol=0)


def test_bf16_where_the_gpu_has_it(tmp_path):
    """Since Ampere, and on AMD's; where it is emulated fp32 is faster."""
    has_it = bool(torch.version.hip) or torch.cuda.get_device_capability() >= (8, 0)
    with runs.fresh_accelerator_state():
        training = TrainingRun(parser().parse_args(runs.arguments(tmp_path)))
    assert training.options.mixed_precision == ("bf16" if has_it else "no")
