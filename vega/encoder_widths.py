"""The features of a token in each of a model's text encoders, told without loading the model."""

from functools import lru_cache
from pathlib import Path

from . import native_resolution, weights

FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# Before the name of the weight that has a row for each token, in a checkpoint file.
FILES = {"clip_l": ("conditioner.embedders.0.", "cond_stage_model."), "clip_g": (native_resolution.SECOND_ENCODER,)}
TOKENS = "token_embedding.weight"
DEFAULT = 512  # of a CLIPTextConfig that doesn't say


def of(path: Path) -> dict[str, int]:
    """The host's name of each encoder -> its width, of a folder or a checkpoint; ValueError where it can't be read."""
    changed = native_resolution.modified_ns(path)
    with native_resolution.READING:
        return read(path, changed)


@lru_cache
def read(path: Path, changed: int) -> dict[str, int]:
    if path.is_dir():
        configs = {name: path / part / "config.json" for name, part in FOLDERS.items() if (path / part).is_dir()}
        return {name: weights.read_json(file).get("hidden_size", DEFAULT) for name, file in configs.items()}
    tables = {key: tensor for key, tensor in weights.read(path)[0].items() if key.endswith(TOKENS) and tensor.ndim}
    found = {name: [t for key, t in tables.items() if key.startswith(before)] for name, before in FILES.items()}
    return {name: those[0].shape[-1] for name, those in found.items() if those}
