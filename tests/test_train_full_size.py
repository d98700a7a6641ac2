"""One step on Segmind-Vega's real dimensions, with random weights, and the memory that it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STEP = """
import resource, tempfile, time
from pathlib import Path
import torch
from diffusers import DDPMScheduler
from torch import nn
from dev.diffusers_folders import real_unet
from train import adapters, training_loop
from train.denoising import Batch, denoising_loss
from train.diffusion import NOISE_SCHEDULE
from train.optimization import make_optimizer, schedule
from train.options import TARGET_MODULES
unet = real_unet("Segmind-Vega").to_empty(device="cpu").requires_grad_(False)
for parameter in unet.parameters():
    parameter.normal_(0, 0.02)
learned = nn.ParameterList(adapters.add(unet, 16, 16, TARGET_MODULES))
unet.enable_gradient_checkpointing()
unet.train()
text = torch.randn(1, 77, 2048), torch.randn(1, 1280)
size_ids = torch.tensor([[512, 512, 0, 0, 512, 512]])
batch = Batch(torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), torch.tensor([500]), text, size_ids)
scheduler = DDPMScheduler(**NOISE_SCHEDULE)
optimizer = make_optimizer([{"params": list(learned), "lr": 1e-4}])
began = time.monotonic()
with tempfile.TemporaryDirectory() as folder:
    losses = training_loop.train(
        learned, lambda _: denoising_loss(unet, scheduler, batch, 5.0), optimizer, schedule("constant", 1), Path(folder), 1
    )
print(losses[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.monotonic() - began)
"""


@pytest.mark.model
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_a_step_at_real_size(record_property):
    """LoRA of rank 16 at 512 x 512, batch 1, with checkpointing and cached inputs, in fp32 on the CPU: below 6 GiB."""
    done = subprocess.run([sys.executable, "-c", STEP], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss, gigabytes, seconds = map(float, done.stdout.split()[-3:])
    record_property("peak GiB", round(gigabytes, 2))
    record_property("seconds", round(seconds))
    assert 0 < loss < 100
    assert gigabytes < 6
