"""python -m train.nano on few small pictures, which takes seconds a stage, in this process or in one of its own."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from train.nano import latents
from train.nano.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
SIZES = {(128, 128): 0.5, (128, 192): 0.3, (256, 256): 0.1, (320, 256): 0.1}
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


def arguments(folder: Path, *stage: str, **other) -> list[str]:
    settings = [f"--{name}={value}" for name, value in {**REDUCED, **other}.items()]
    return [*stage, f"--work={folder / 'work'}", f"--out={folder / 'nano'}", *settings]


def command(folder: Path, *stage: str, **other) -> list[str]:
    return [sys.executable, str(Path(__file__)), *arguments(folder, *stage, **other)]


def environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def here(folder: Path, *stage: str, **other) -> str:
    """What `python -m train.nano` prints when this process runs it: importing everything again takes longer than a stage."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        main_with_small_pictures(arguments(folder, *stage, **other))
    return printed.getvalue()


def main_with_small_pictures(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(latents, "SIZES", SIZES)
        main(arguments)


if __name__ == "__main__":
    main_with_small_pictures(sys.argv[1:])
