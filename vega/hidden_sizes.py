"""The hidden size of each of a model's text encoders, read without loading the model."""

from functools import lru_cache
from pathlib import Path

from . import native_resolution, weights

ENCODER_FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# Prefixes of each encoder's weights in a checkpoint file.
WEIGHT_PREFIXES = {
    "clip_l": ("conditioner.embedders.0.", "cond_stage_model."),
    "clip_g": (native_resolution.SECOND_ENCODER_PREFIX,),
}
TOKEN_EMBEDDING = "token_embedding.weight"
DEFAULT_HIDDEN_SIZE = 512  # of a CLIPTextConfig that doesn't say


def of_text_encoders(path: Path) -> dict[str, int]:
    """The host's name of each encoder -> its hidden size, of a folder or a checkpoint; ValueError where it can't be read."""
    modified_ns = native_resolution.modified_ns(path)
    with native_resolution.READ_LOCK:
        return read_cached(path, modified_ns)


@lru_cache
def read_cached(path: Path, modified_ns: int) -> dict[str, int]:
    if path.is_dir():
        configs = {name: path / part / "config.json" for name, part in ENCODER_FOLDERS.items() if (path / part).is_dir()}
        return {name: weights.read_json(file).get("hidden_size", DEFAULT_HIDDEN_SIZE) for name, file in configs.items()}
    tables = {key: tensor for key, tensor in weights.read(path)[0].items() if key.endswith(TOKEN_EMBEDDING) and tensor.ndim}
    of_encoder = {name: [t for k, t in tables.items() if k.startswith(prefix)] for name, prefix in WEIGHT_PREFIXES.items()}
    return {name: found[0].shape[-1] for name, found in of_encoder.items() if found}
