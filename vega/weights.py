"""Weights from disk: whole, or refused with the file's name and what to do."""

from pathlib import Path

import comfy.ops
import torch
from safetensors import SafetensorError, safe_open


class EagerOps(comfy.ops.manual_cast):
    """The host's layers with their weights there from the start, to read the shapes that a model needs.

    With dynamic VRAM the host's Linear and Embedding have none until a state dict brings them; it spares subclasses
    that load state dicts by themselves (comfy/ops.py, guarded by tests/test_loading.py).
    """

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, *args):
            return super()._load_from_state_dict(*args)

    class Embedding(comfy.ops.manual_cast.Embedding):
        def _load_from_state_dict(self, *args):
            return super()._load_from_state_dict(*args)


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file on the CPU, and its metadata; ValueError if the file is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} can't be read: it is incomplete or not a safetensors file ({error}). Download or copy it again."
        ) from error


def find(folder: Path, stem: str) -> Path:
    """folder/stem.safetensors or its fp16 variant; ValueError naming both if there is neither."""
    names = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} holds no weights: expected {names[0]} or {names[1]}. Download the model again.")


def check(path: Path, found: dict[str, torch.Tensor], needed: dict[str, torch.Tensor]) -> None:
    """ValueError, listing the first five of each, unless `found` has exactly the names and shapes of `needed`."""
    missing = sorted(needed.keys() - found.keys())
    unexpected = sorted(found.keys() - needed.keys())
    wrong = [
        f"{k} {list(found[k].shape)} instead of {list(needed[k].shape)}"
        for k in sorted(needed.keys() & found.keys())
        if found[k].shape != needed[k].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)]
    parts = [f"{len(names)} weights {what}: {listing(names)}" for what, names in problems if names]
    if parts:
        raise ValueError(f"{path} does not fit its config.json; {'; '.join(parts)}. Download the model again.")


def listing(names: list[str]) -> str:
    """The first five names, and whether there are more."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
