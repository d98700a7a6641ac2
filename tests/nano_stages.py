"""python -m train.nano at a size that takes seconds a stage, in this process or in one of its own."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

from train.nano.__main__ import main

REDUCED = {
    "pictures": 40,
    "autoencoder-steps": 24,
    "sharpening-steps": 9,
    "text-encoders-steps": 13,
    "base-steps": 10,
    "direct-steps": 4,
    "teacher-steps": 6,
    "student-steps": 6,
    "lcm-lora-steps": 12,
    "classifier-steps": 14,
    "prompts": 2,
}


def command(folder: Path, *stage: str, **other) -> list[str]:
    settings = [f"--{name}={value}" for name, value in {**REDUCED, **other}.items()]
    return [sys.executable, "-m", "train.nano", *stage, f"--work={folder / 'work'}", f"--out={folder / 'nano'}", *settings]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def here(folder: Path, *stage: str, **other) -> str:
    """What `python -m train.nano` prints when this process runs it: importing everything again takes longer than a stage."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        main(command(folder, *stage, **other)[3:])
    return printed.getvalue()
