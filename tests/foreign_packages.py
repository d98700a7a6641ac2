"""Packages that only one test needs, by pip, into a folder of its own."""

import subprocess
import sys
from pathlib import Path

from machine_lacks import lacks


def by_pip(folder: Path, *requirements: str) -> dict[str, str]:
    """Installs them into the folder: what the environment of a program that imports them needs."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder), *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lacks(f"the network, or these packages: {done.stderr.strip().splitlines()[-1]}")
    return {"PYTHONPATH": str(folder)}
