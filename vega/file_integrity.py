"""What a file's own bytes tell before a library reads them: that it holds something else, or was never written whole."""

import json
import os
import re
from itertools import islice
from pathlib import Path
from typing import BinaryIO

# What a file starts with that is something else than its name says, what it is, and what to do.
SIGNATURES = {
    b"version https://git-lfs": (
        "a Git LFS pointer to one: run `git lfs pull` where it was cloned, or download the file itself"
    ),
    b"GGUF": "GGUF, which is quantised: take the model's safetensors in fp32, fp16 or bf16",
    b"<!doctype html": "a web page: download the file itself, where needed logged in to the site",
    b"<html": "a web page: download the file itself, where needed logged in to the site",
}
SIGNATURE_BYTES = 64  # at the start of a file, in which it says what it is
ZERO_RUN_BYTES = 64  # no trained matrix has as many zeros in a row
MAX_TENSORS = 20_000  # SDXL's checkpoints have some 2,600, twice that with an averaged copy, and the largest LoRAs 10,000
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file's header: the library itself reads no more
# Of a header without escapes: its strings, which may hold braces, and the braces that begin its objects.
STRING_OR_OBJECT = re.compile(rb'"[^"]*(?:"|\Z)|\{')
# The second matrix of a LoRA, which starts out as zeros, whole.
LORA_UP = re.compile(r"lora_up|lora_B|lora\.up\.")


def detect_wrong_type(path: Path) -> str | None:
    """What the file is in place of weights or JSON, and what to do; None where nothing is seen."""
    with path.open("rb") as file:
        return detect_wrong_type_of_bytes(file.read(SIGNATURE_BYTES))


def detect_wrong_type_of_bytes(start: bytes) -> str | None:
    """As detect_wrong_type(), by the file's first bytes."""
    start = start[:SIGNATURE_BYTES].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((kind for sign, kind in SIGNATURES.items() if start.startswith(sign.lower())), None)


def has_too_many_tensors(path: Path) -> bool:
    """Whether a safetensors file's header names more tensors than any model has, told before the library parses it.

    That would take seconds, in which no other thread of Python runs.
    """
    with path.open("rb") as file:
        length = int.from_bytes(read_range(file, 0, 8), "little")
        header = read_range(file, 8, 8 + length) if length <= MAX_HEADER_BYTES else b""
    most = MAX_TENSORS + 2  # objects: one for each tensor, the header itself and its metadata
    if not header.lstrip().startswith(b"{") or header.count(b"{") <= most:
        return False
    parts = STRING_OR_OBJECT.finditer(header.replace(rb"\\", b"").replace(rb"\"", b""))
    objects = (part for part in parts if part[0] == b"{")
    return next(islice(objects, most, None), None) is not None


def too_many_tensors_message(path: Path) -> str:
    """The message about a file of more than MAX_TENSORS."""
    return (
        f"{path} has more than {MAX_TENSORS} tensors, and no model or LoRA of the SDXL and SD 1.5 families has so many: "
        "it is of another kind of model, or damaged. Choose another file."
    )


def check_complete(path: Path) -> None:
    """ValueError for a safetensors file whose end is zeros where weights should be.

    A download that makes room first and breaks off leaves the right size, the right header and zeros from some point on.
    Only the last bytes are read, and where they are zeros, tensor by tensor from the end: an untrained bias or LoRA is
    zeros too, but whole.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if any(read_range(file, max(0, size - ZERO_RUN_BYTES), size)):
            return
        # Without masks and counters, which are zeros by right.
        for name, shape, begin, end in float_tensor_ranges_reversed(file):
            last = read_range(file, max(begin, end - ZERO_RUN_BYTES), end)
            if any(last):
                return
            if (len(last) < ZERO_RUN_BYTES or may_be_zeros(name, len(shape))) and not any(read_range(file, begin, end)):
                continue
            if LORA_UP.search(name) and any(read_range(file, end - (end - begin) // shape[0], end)):
                return  # a LoRA padded to a larger rank
            raise ValueError(truncated_message(path, f"zeros in {name}"))


def may_be_zeros(name: str, dimensions: int) -> bool:
    """Whether a tensor of that name may be nothing but zeros in a whole file."""
    return bool(LORA_UP.search(name)) or (dimensions < 2 and not name.endswith("weight"))


def truncated_message(path: Path, seen: str) -> str:
    """The message about a file whose end is missing, with what shows it."""
    return (
        f"{path} is incomplete: the end of the file was never written ({seen}). A download or copy broke off: "
        "download it again."
    )


def ends_in_zeros(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        return size >= ZERO_RUN_BYTES and not any(read_range(file, size - ZERO_RUN_BYTES, size))


def float_tensor_ranges_reversed(file: BinaryIO) -> list[tuple[str, list[int], int, int]]:
    """(name, shape, first byte, byte after the last) of each floating tensor of a safetensors file, the last first."""
    length = int.from_bytes(read_range(file, 0, 8), "little")
    header = json.loads(read_range(file, 8, 8 + length))
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if begin < end and (entry["dtype"].startswith("F") or entry["dtype"] == "BF16"):
            tensors.append((name, entry["shape"], begin, end))
    return sorted(tensors, key=lambda tensor: tensor[2], reverse=True)


def read_range(file: BinaryIO, begin: int, end: int) -> bytes:
    file.seek(begin)
    return file.read(end - begin)
