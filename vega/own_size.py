"""The size that a model was trained to draw, told without loading it."""

from functools import lru_cache
from pathlib import Path
from threading import Lock

from . import weights

LATENT = 8  # pixels
SDXL, SD15 = 1024, 512
READING = Lock()  # a pickle may be held whole while it is read: one at a time
SECOND_ENCODER = "conditioner.embedders.1."  # only checkpoints of the SDXL family have one


def pixels(path: Path) -> int:
    """Pixels of a side, of a diffusers folder or a checkpoint file; ValueError where the file can't be read."""
    last = changed(path)
    with READING:
        return read(path, last)


def changed(path: Path) -> int:
    """When it was written, in ns; a folder's is its UNet's. ValueError where there is none."""
    file = told_by(path)
    try:
        return file.stat().st_mtime_ns
    except OSError:
        raise ValueError(f"{file} is missing. Download the model again.") from None


def told_by(path: Path) -> Path:
    return path / "unet" / "config.json" if path.is_dir() else path


@lru_cache
def read(path: Path, changed: int) -> int:
    if path.is_dir():
        config = weights.read_json(told_by(path))
        size = config.get("sample_size")
        if not isinstance(size, int):
            return SDXL if config.get("addition_embed_type") else SD15
        return LATENT * size
    return SDXL if any(key.startswith(SECOND_ENCODER) for key in weights.read(path)[0]) else SD15
