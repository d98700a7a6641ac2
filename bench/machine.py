"""The machine that is measured, and what is measured on such a machine."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.float16 if GPU else torch.float32  # of the UNet and the decoder, in every variant
# Whether the models' processor multiplies bf16 itself.
BF16_ARITHMETIC = not GPU and any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))
SIZES = (512, 768, 1024) if GPU else (128, 192, 256)
STEPS = (1, 2, 4, 8)
BATCHES = (1, 4)
PACKAGES = ("torch", "diffusers", "transformers", "peft", "pillow", "numpy")


class Case(NamedTuple):
    """What one prompt asks for: square pictures of `size` pixels a side."""

    size: int
    steps: int
    batch: int

    def __str__(self) -> str:
        return f"{self.size} px, {self.steps} step{'s'[: self.steps > 1]}" + (f", batch {self.batch}" * (self.batch > 1))


def main_case(sizes: tuple[int, ...]) -> Case:
    """The case that every other one differs from in one respect: four steps at the largest size."""
    return Case(max(sizes), 4, 1)


def cases(sizes: tuple[int, ...]) -> list[Case]:
    """The main case first, then those that show growth: other sizes, other steps, a batch."""
    size, steps, batch = main_case(sizes)
    others = [Case(s, steps, batch) for s in sizes] + [Case(size, s, batch) for s in STEPS]
    return list(dict.fromkeys([Case(size, steps, batch), *others, *(Case(size, steps, b) for b in BATCHES)]))


def device_name() -> str:
    """The GPU's name, or the processor's with its widest vectors, as some have one name for several; never the host's."""
    if GPU:
        return torch.cuda.get_device_name()
    vectors = torch.backends.cpu.get_cpu_capability()
    return processor_name() if vectors == "DEFAULT" else f"{processor_name()}, {vectors}"


def processor_name() -> str:
    if platform.system() == "Darwin":
        return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return found[1] if found else platform.machine()


def file_stem() -> str:
    """The machine's name in the names of its results."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)", "", device_name()).lower()).strip("-")


def description() -> dict:
    return {
        "name": device_name(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu_memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30) if GPU else None,
        "system": f"{platform.system()} {platform.machine()}",
        "dtype": str(DTYPE).removeprefix("torch."),
    }


def versions() -> dict:
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **found, "cuda": torch.version.cuda if GPU else None}
