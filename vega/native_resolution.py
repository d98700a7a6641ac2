"""The resolution that a model was trained at, read without loading it."""

from functools import lru_cache
from pathlib import Path
from threading import Lock

from . import weights
from .latent_formats import PIXELS_PER_LATENT

SDXL_RESOLUTION, SD15_RESOLUTION = 1024, 512
READ_LOCK = Lock()  # a pickle may be held whole while it is read: one at a time
SECOND_ENCODER_PREFIX = "conditioner.embedders.1."  # only checkpoints of the SDXL family have one


def read_pixels(path: Path) -> int:
    """Pixels of a side, of a diffusers folder or a checkpoint file; ValueError where the file can't be read."""
    modified = modified_ns(path)
    with READ_LOCK:
        return read_cached(path, modified)


def modified_ns(path: Path) -> int:
    """When it was written, in ns; a folder's is its UNet's. ValueError where there is none."""
    file = config_file(path)
    try:
        return file.stat().st_mtime_ns
    except OSError:
        raise ValueError(f"{file} is missing. Download the model again.") from None


def config_file(path: Path) -> Path:
    return path / "unet" / "config.json" if path.is_dir() else path


@lru_cache
def read_cached(path: Path, modified_ns: int) -> int:
    if path.is_dir():
        config = weights.read_json(config_file(path))
        size = config.get("sample_size")
        if not isinstance(size, int):
            return SDXL_RESOLUTION if config.get("addition_embed_type") else SD15_RESOLUTION
        return PIXELS_PER_LATENT * size
    return (
        SDXL_RESOLUTION if any(key.startswith(SECOND_ENCODER_PREFIX) for key in weights.read(path)[0]) else SD15_RESOLUTION
    )
