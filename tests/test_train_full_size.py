"""One step on Segmind-Vega's real dimensions, with random weights, and the memory that it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.model,
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone"),
]
# What both have: the UNet, and a batch of one picture.
MADE = """
import resource, tempfile, time
from pathlib import Path
import torch
from diffusers import DDPMScheduler
from torch import nn
from dev.diffusers_folders import real_unet
from train import adapters, training_loop
from train.consistency import consistency_loss
from train.denoising import Batch, denoising_loss
from train.diffusion import NOISE_SCHEDULE, Diffusion
from train.optimization import make_optimizer, schedule
from train.options import TARGET_MODULES
unet = real_unet("Segmind-Vega").to_empty(device="cpu").requires_grad_(False)
for parameter in unet.parameters():
    parameter.normal_(0, 0.02)
text = torch.randn(1, 77, 2048), torch.randn(1, 1280)
size_ids = torch.tensor([[512, 512, 0, 0, 512, 512]])
batch = Batch(torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), torch.tensor([500]), text, size_ids)
"""
LORA = """
learned = adapters.add(unet, 16, 16, TARGET_MODULES)
scheduler = DDPMScheduler(**NOISE_SCHEDULE)
loss = lambda _: denoising_loss(unet, scheduler, batch, 5.0)
"""
LCM_LORA = """
learned = adapters.add_lcm_lora(unet, 64, 64)
diffusion, zeros = Diffusion(unet.device), tuple(map(torch.zeros_like, text))
loss = lambda _: consistency_loss(unet, diffusion, batch, zeros, torch.tensor([7.5]))
"""
STEP = """
unet.enable_gradient_checkpointing()
unet.train()
optimizer = make_optimizer([{"params": learned, "lr": 1e-4}])
began = time.monotonic()
with tempfile.TemporaryDirectory() as folder:
    losses = training_loop.train(nn.ParameterList(learned), loss, optimizer, schedule("constant", 1), Path(folder), 1)
print(losses[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.monotonic() - began)
"""


def gigabytes(objective: str, record_property) -> float:
    """The most memory that the step takes."""
    done = subprocess.run([sys.executable, "-c", MADE + objective + STEP], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss, peak, seconds = map(float, done.stdout.split()[-3:])
    record_property("peak GiB", round(peak, 2))
    record_property("seconds", round(seconds))
    assert 0 < loss < 100
    return peak


def test_a_step_at_real_size(record_property):
    """LoRA of rank 16 at 512 x 512, batch 1, with checkpointing and cached inputs, in fp32 on the CPU: below 6 GiB."""
    assert gigabytes(LORA, record_property) < 6


def test_a_distillation_step_at_real_size(record_property):
    """LCM-LoRA of rank 64 likewise: teacher and student are one UNet, whose weights alone would be 2.8 GiB more."""
    assert gigabytes(LCM_LORA, record_property) < 7
