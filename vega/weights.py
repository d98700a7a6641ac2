"""Weights from disk: whole, or refused with the file's name and what to do."""

import json
import logging
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from . import file_integrity, unsupported

SAFETENSORS = (".safetensors", ".sft")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# How diffusers and transformers name a part's weights: plain, then the fp16 variant; each whole, then in shards.
FILE_NAME_FORMS = ("{}.safetensors", "{}.safetensors.index.json", "{}.fp16.safetensors", "{}.safetensors.index.fp16.json")
PICKLE_NAME_FORMS = tuple(form.replace("safetensors", "bin") for form in FILE_NAME_FORMS)
# transformers calls a pickle of its own otherwise.
PICKLE_STEMS = {"model": "pytorch_model"}
# What torch.compile, DDP and FSDP put before the names within what they wrap; kohya writes _ for each dot.
WRAPPER_PREFIX = r"(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)"
WRAPPER_PATTERN = re.compile(rf"(?:^|(?<=\.)){WRAPPER_PREFIX}\.|_{WRAPPER_PREFIX}(?=_)")


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file on the CPU (mapped, not copied, where the format allows), and its metadata.

    safetensors, or a pickle of plain weights, with plain values beside them that are left; ValueError for anything else.
    What a wrapper of torch added to the names is taken off.
    """
    is_safetensors = path.suffix.lower() in SAFETENSORS
    try:
        other = file_integrity.detect_wrong_type(path)
        too_many = is_safetensors and not other and file_integrity.has_too_many_tensors(path)
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}). Let ComfyUI read it, or copy it again.") from error
    if other:
        kind = "a safetensors file" if is_safetensors else "a file of weights at all,"
        raise ValueError(f"{path} is not {kind} but {other}.")
    if too_many:
        raise ValueError(file_integrity.too_many_tensors_message(path))
    state_dict, metadata = read_safetensors(path) if is_safetensors else (read_pickle(path), {})
    if len(state_dict) > file_integrity.MAX_TENSORS:
        raise ValueError(file_integrity.too_many_tensors_message(path))
    return strip_wrappers(path, state_dict), metadata


def strip_wrappers(path: Path, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names that they have in the model itself."""
    names = {name: WRAPPER_PATTERN.sub("", name) for name in state_dict}
    if len(set(names.values())) < len(names):
        raise ValueError(f"{path} holds some weights twice, with and without `_orig_mod.` or `module.`. Save it again.")
    return {names[name]: tensor for name, tensor in state_dict.items()}


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        if read_first_bytes(path, 4).startswith((b"PK\x03\x04", b"\x80\x02\x8a")):
            raise ValueError(f"{path} is a PyTorch pickle under another name: name it .ckpt, and it may load.") from error
        raise ValueError(
            f"{path} can't be read: it is incomplete or not a safetensors file ({error}). Download or copy it again."
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; none of another, and of one that can't be read, which read() refuses."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    is_zip = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if read_first_bytes(path, 2) == b"PK" and not is_zip:
            raise ValueError(incomplete_message(path)) from error
        if read_first_bytes(path, 9)[8:] == b"{":
            raise ValueError(f"{path} is a safetensors file under another name: name it .safetensors.") from error
        if read_first_bytes(path, 1) != b"\x80" and not is_zip:
            raise ValueError(f"{path} is not a file of weights at all. Download it again.") from error
        raise ValueError(
            f"{path} is not a file of plain weights, and a pickle of anything else could run code, so it is not opened: "
            "use the model's safetensors files."
        ) from error
    except Exception as error:  # torch's reader raises whatever a broken file makes it stumble over
        raise ValueError(incomplete_message(path)) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ValueError(f"{path} holds something else than named weights. Use the model's safetensors files.")
    if not is_zip and file_integrity.ends_in_zeros(path):  # torch's old format, which ends with some tensor's data
        for name, tensor in tensors.items():
            end = tensor.flatten()[-file_integrity.ZERO_RUN_BYTES // tensor.element_size() :]
            if len(end) and not file_integrity.may_be_zeros(name, tensor.ndim) and not end.any():
                raise ValueError(file_integrity.truncated_message(path, f"zeros in {name}"))
    return tensors


def incomplete_message(path: Path) -> str:
    if file_integrity.ends_in_zeros(path):
        return file_integrity.truncated_message(path, "zeros")
    return f"{path} can't be read: it is incomplete. Download or copy it again."


def read_first_bytes(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def read_part(folder: Path, stem: str) -> tuple[Path, dict[str, torch.Tensor]]:
    """The weights of one part of a diffusers folder, whole or in shards, and the file that stands for them.

    Of the forms that are there the first whose files all are; ValueError saying what the most complete one lacks, or what is
    damaged in it.
    """
    refusals = []
    for form in FILE_NAME_FORMS + PICKLE_NAME_FORMS:
        path = folder / form.format(stem if form in FILE_NAME_FORMS else PICKLE_STEMS.get(stem, stem))
        if path.is_file():
            try:
                state_dict = read_files(path)
            except ValueError as error:
                if (share := present_fraction(path)) == 1:
                    raise  # it is damaged: another form may hold other weights
                refusals.append((share, error))
                continue
            unsupported.check(path, state_dict)
            check_end(path)
            for _, error in refusals:
                logging.warning("%s is taken instead: %s", path, error)
            return path, state_dict
    if refusals:
        raise max(refusals, key=lambda refusal: refusal[0])[1]
    names = " or ".join(form.format(stem) for form in FILE_NAME_FORMS)
    others = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (*SAFETENSORS, ".bin", ".ckpt", ".pt"))
    only = f" (only {list_names(others)})" if others else ""
    raise ValueError(f"{folder} holds no weights{only}: expected {names}. Download the model again.")


def read_files(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of every shard that an index file names."""
    if path.suffix != ".json":
        return read(path)[0]
    files = shards(path)
    missing = [file for file in files if not file.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more: {list_names([m.name for m in missing[1:]])})" if missing[1:] else ""
        raise ValueError(f"{missing[0]}, which {path.name} names, is missing{more}: download the rest of the model.")
    state_dict = {}
    for file in files:
        state_dict.update(read(file)[0])
        if len(state_dict) > file_integrity.MAX_TENSORS:
            raise ValueError(file_integrity.too_many_tensors_message(path))
    return state_dict


def shards(index: Path) -> list[Path]:
    """The files that an index file names, there or not."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} has no weight_map. Download it again.")
    if len(names) > file_integrity.MAX_TENSORS:
        raise ValueError(file_integrity.too_many_tensors_message(index))
    return [index.with_name(Path(name).name) for name in sorted(set(names.values()))]


def present_fraction(path: Path) -> float:
    """The share of a form's own files that are really there, for one that could not be read whole."""
    try:
        files = shards(path) if path.suffix == ".json" else [path]
        return sum(file.is_file() and not file_integrity.detect_wrong_type(file) for file in files) / len(files)
    except (ValueError, OSError):
        return 0.0


def check_end(path: Path) -> None:
    """ValueError where a file, or one of the shards that an index names, was never written to its end."""
    for file in shards(path) if path.suffix == ".json" else [path]:
        if file.suffix.lower() in SAFETENSORS:
            file_integrity.check_complete(file)


def read_json(path: Path) -> dict:
    """The object in a JSON file; ValueError naming it if it holds none."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}). Download the model again.") from error
    if other := file_integrity.detect_wrong_type_of_bytes(text):
        raise ValueError(f"{path} is not JSON but {other}.")
    try:
        value = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Download it again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object. Download it again.")
    return value


def unsupported_config(path: Path, what: str) -> ValueError:
    """What is raised of a config.json that no supported model has."""
    return ValueError(f"{path}: {what}. Use another model: Load Vega takes {unsupported.FAMILIES}.")


def require(path: Path, config: dict, required: dict[str, tuple], variant_names: dict | None = None) -> None:
    """ValueError naming the first option of a config.json that is not one of its required values; left out, it is the first.

    variant_names: (option, value), or an option with any other value -> what a model with it is called.
    """
    if config.get("quantization_config"):
        raise ValueError(
            f"{path} says that the model is quantised (quantization_config). Only weights in fp32, fp16 or bf16 are "
            "supported: take the model in one of these."
        )
    for option, allowed in required.items():
        value = config.get(option, allowed[0])
        if value not in allowed:
            name = next((n for refused, n in (variant_names or {}).items() if refused in ((option, value), option)), None)
            known = f" ({name})" if name else ""
            only = " or ".join(map(repr, allowed))
            raise unsupported_config(path, f"{option} = {value!r}{known} is not supported (only {only})")


def check(path: Path, tensors: dict[str, torch.Tensor], needed: dict[str, torch.Tensor]) -> None:
    """ValueError, listing the first five of each, unless `tensors` has exactly the names and shapes of `needed`, as floats,
    written to the end of its file.
    """
    missing = sorted(needed.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - needed.keys())
    common = sorted(needed.keys() & tensors.keys())
    wrong = [
        f"{k} {list(tensors[k].shape)} instead of {list(needed[k].shape)}"
        for k in common
        if tensors[k].shape != needed[k].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong)]
    parts = [f"{len(names)} weights {problem}: {list_names(names)}" for problem, names in problems if names]
    if parts:
        unsupported.check(path, tensors)
        advice = (
            "The file is of another model than the rest, or another tool changed it: take the model as it was published"
            if unexpected or wrong
            else "Download the model again"
        )
        raise ValueError(f"{path} does not fit its model; {'; '.join(parts)}. {advice}.")
    other = [f"{k} {str(tensors[k].dtype).removeprefix('torch.')}" for k in common if tensors[k].dtype not in DTYPES]
    if other:
        raise ValueError(
            f"{path} has {len(other)} weights that are neither fp32 nor fp16 nor bf16: {list_names(other)}. "
            "Take the model in one of these."
        )
    check_end(path)


def list_names(names: list[str]) -> str:
    """The first five names, and whether there are more."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
