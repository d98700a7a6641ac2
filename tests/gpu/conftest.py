"""What is true of every test on a GPU."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")


@pytest.fixture(scope="module", autouse=True)
def without_gradients(gpu, inference):
    pass
