"""Weights from disk: whole, or refused with the file's name and what to do."""

import json
import pickle
import zipfile
from pathlib import Path

import comfy.memory_management
import comfy.ops
import torch
from safetensors import SafetensorError, safe_open

SAFETENSORS = (".safetensors", ".sft")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# How diffusers and transformers name a part's weights: plain, then the fp16 variant; each whole, then in shards.
FORMS = ("{}.safetensors", "{}.safetensors.index.json", "{}.fp16.safetensors", "{}.safetensors.index.fp16.json")
PICKLES = tuple(form.replace("safetensors", "bin") for form in FORMS)
# transformers calls a pickle of its own otherwise.
PICKLE_STEM = {"model": "pytorch_model"}


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
    """The tensors of a file on the CPU (mapped, not copied, where the format allows), and its metadata.

    safetensors, or a pickle of plain weights, with plain values beside them that are left; ValueError for anything else.
    """
    return read_safetensors(path) if path.suffix.lower() in SAFETENSORS else (read_pickle(path), {})


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} can't be read: it is incomplete or not a safetensors file ({error}). Download or copy it again."
        ) from error


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    is_zip = zipfile.is_zipfile(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if start(path) != b"\x80" and not is_zip:
            raise ValueError(f"{path} is not a file of weights at all. Download it again.") from error
        raise ValueError(
            f"{path} is not a file of plain weights, and a pickle of anything else could run code, so it is not opened: "
            "use the model's safetensors files."
        ) from error
    except Exception as error:  # torch's reader raises whatever a broken file makes it stumble over
        raise ValueError(f"{path} can't be read: it is incomplete. Download or copy it again.") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    tensors = {k: v for k, v in found.items() if isinstance(v, torch.Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise ValueError(f"{path} holds something else than named weights. Use the model's safetensors files.")
    return tensors


def start(path: Path) -> bytes:
    """The first byte."""
    with path.open("rb") as file:
        return file.read(1)


def read_part(folder: Path, stem: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """The weights of one part of a diffusers folder, whole or in shards, and the file that stands for them."""
    for form in FORMS + PICKLES:
        path = folder / form.format(stem if form in FORMS else PICKLE_STEM.get(stem, stem))
        if path.is_file():
            return path, read_shards(path) if path.suffix == ".json" else read(path)[0]
    names = " or ".join(form.format(stem) for form in FORMS)
    raise ValueError(f"{folder} holds no weights: expected {names}. Download the model again.")


def read_shards(index: Path) -> dict[str, torch.Tensor]:
    """The tensors of every shard that an index file names."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(s, str) for s in shards.values()):
        raise ValueError(f"{index} has no weight_map. Download it again.")
    found = {}
    for name in sorted(set(shards.values())):
        path = index.with_name(Path(name).name)
        if not path.is_file():
            raise ValueError(f"{path}, which {index.name} names, is missing: download the rest of the model.")
        found.update(read(path)[0])
    return found


def read_json(path: Path) -> dict:
    """The object in a JSON file; ValueError naming it if it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}). Download the model again.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object. Download it again.")
    return found


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor as the host should be given it.

    With dynamic VRAM the host's Linear takes its dtype from the tensors it is given (comfy/ops.py, guarded by
    tests/test_loading.py). Elsewhere it casts them one by one, and casting all of them before would double the memory.
    """
    return tensor.to(dtype) if comfy.memory_management.aimdo_enabled else tensor


def require(path: Path, config: dict, required: dict[str, tuple], known_as: dict[tuple, str] | None = None) -> None:
    """ValueError naming the first option of a config.json that is not one of its required values; left out, it is the first.

    known_as: (option, value) -> what a model with such a value is called.
    """
    for option, allowed in required.items():
        value = config.get(option, allowed[0])
        if value not in allowed:
            name = next((n for refused, n in (known_as or {}).items() if refused == (option, value)), None)
            known = f" ({name})" if name else ""
            raise ValueError(
                f"{path}: {option} = {value!r}{known} is not supported (only {' or '.join(map(repr, allowed))})."
            )


def check(path: Path, found: dict[str, torch.Tensor], needed: dict[str, torch.Tensor]) -> None:
    """ValueError, listing the first five of each, unless `found` has exactly the names and shapes of `needed`, as floats."""
    missing = sorted(needed.keys() - found.keys())
    unexpected = sorted(found.keys() - needed.keys())
    common = sorted(needed.keys() & found.keys())
    wrong = [
        f"{k} {list(found[k].shape)} instead of {list(needed[k].shape)}" for k in common if found[k].shape != needed[k].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)]
    parts = [f"{len(names)} weights {what}: {listing(names)}" for what, names in problems if names]
    if parts:
        raise ValueError(f"{path} does not fit its model; {'; '.join(parts)}. Download the model again.")
    other = [f"{k} {str(found[k].dtype).removeprefix('torch.')}" for k in common if found[k].dtype not in DTYPES]
    if other:
        raise ValueError(
            f"{path} has {len(other)} weights that are neither fp32 nor fp16 nor bf16: {listing(other)}. "
            "Take the model in one of these."
        )


def listing(names: list[str]) -> str:
    """The first five names, and whether there are more."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
