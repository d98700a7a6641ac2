"""Training at real sizes, with random weights, and the memory that it takes: a step, and the captions of many pictures."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_files as files
import training_runs as runs
from diffusers import AutoencoderTiny, UNet2DConditionModel

from bench import weights
from dev import diffusers_folders

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
use_adafactor = False
unet = real_unet("Segmind-Vega").to_empty(device="cpu").requires_grad_(False)
for parameter in unet.parameters():
    parameter.normal_(0, 0.02)
text = torch.randn(1, 77, 2048), torch.randn(1, 1280)
time_ids = torch.tensor([[512, 512, 0, 0, 512, 512]])
batch = Batch(torch.randn(1, 4, 64, 64), torch.randn(1, 4, 64, 64), torch.tensor([500]), text, time_ids)
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
FINETUNE = """
learned, use_adafactor = list(unet.requires_grad_(True).parameters()), True
scheduler = DDPMScheduler(**NOISE_SCHEDULE)
loss = lambda _: denoising_loss(unet, scheduler, batch, 5.0)
"""
STEP = """
unet.enable_gradient_checkpointing()
unet.train()
optimizer = make_optimizer([{"params": learned, "lr": 1e-4}], use_adafactor=use_adafactor)
began = time.monotonic()
with tempfile.TemporaryDirectory() as folder:
    losses = training_loop.train(nn.ParameterList(learned), loss, optimizer, schedule("constant", 1), Path(folder), 1)
print(losses[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.monotonic() - began)
"""

RUN = """
import resource, sys
from train.__main__ import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
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


def test_a_whole_step_at_real_size(record_property):
    """The whole UNet by Adafactor likewise: its weights and gradients are 5.6 GiB."""
    assert gigabytes(FINETUNE, record_property) < 9


def peak(folder: Path, base: str | Path, count: int) -> float:
    """GiB that a run of one step takes at most, on so many small pictures of different captions, the cache being empty."""
    pictures = {f"{k}.png": files.png(k, (64, 64)) for k in range(count)}
    files.write(folder / "pictures", pictures | {f"{k}.txt": f"a lake at night, seen {k} times" for k in range(count)})
    given = runs.arguments(folder, base, steps=1)
    done = subprocess.run([sys.executable, "-c", RUN, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "work" / "cache" / "texts").rglob("*.safetensors"))) == count + 1
    return float(done.stdout.split()[-1])


def real_encoders(folder: Path) -> Path:
    """A folder with SDXL's text encoders at their published dimensions in fp16, and a narrow UNet that reads them."""
    generator, parts = torch.Generator().manual_seed(0), weights.vega_modules()
    shape = diffusers_folders.FAMILIES["Segmind-Vega"] | {
        "cross_attention_dim": parts["text_encoder"].config.hidden_size + parts["text_encoder_2"].config.hidden_size,
        "projection_class_embeddings_input_dim": 6 * 256 + parts["text_encoder_2"].config.projection_dim,
    }
    parts["unet"] = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **shape)
    for name in ("text_encoder", "text_encoder_2"):
        weights.fill_random(parts[name], generator)
    for name, module in {**parts, "vae": AutoencoderTiny()}.items():
        module.save_pretrained(folder / name)
    (folder / "model_index.json").write_text("{}")
    return folder


def test_many_captions_take_no_memory(tmp_path, record_property):
    """2,000 pictures with vega-nano's encoders below 2 GB and as much as with 20; so 64 and 8 with SDXL's, within 0.1 GiB.

    On a processor SDXL's take a second for each caption, so 2,000 would take half an hour: what is held is shown by the few.
    """
    few, many = (peak(tmp_path / f"nano {count}", "vega-nano", count) for count in (20, 2000))
    base = real_encoders(tmp_path / "base")
    real_few, real_many = (peak(tmp_path / f"real {count}", base, count) for count in (8, 64))
    peaks = {"vega-nano 20": few, "vega-nano 2000": many, "SDXL's encoders 8": real_few, "SDXL's encoders 64": real_many}
    for name, gigabytes in peaks.items():
        record_property(f"{name} peak GiB", round(gigabytes, 2))
    assert many < 2e9 / 2**30
    assert many - few < 0.1
    assert real_many - real_few < 0.1
