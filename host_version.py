"""Which ComfyUI the pack is for."""

import re

import comfyui_version

MIN_VERSION = "0.24.1"  # that `make hosts` tests


def check_version() -> None:
    """RuntimeError in an older ComfyUI, which logs it as one line and goes on without the pack."""
    version = comfyui_version.__version__
    if parse_version(version) < parse_version(MIN_VERSION):
        raise RuntimeError(f"Vega RT needs ComfyUI {MIN_VERSION} or newer, and this is {version}: update ComfyUI.")


def parse_version(version: str) -> list[int]:
    """[0, 24, 1] of "0.24.1"."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
