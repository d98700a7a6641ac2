"""The published LCM-LoRAs, which are all downloaded under one name: told apart by what their safetensors headers say.

Not told: an LCM-LoRA that somebody trained in the same form is taken for the published one. A LoRA for a style is in
another form, because it lacks the residual blocks, has another rank, has no alphas, or says in its metadata what it is.
"""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from . import few_step_adapters, lora, lora_keys, published_files, recipes

# What browsers save: the first download, and Chrome's, Firefox's, Safari's and macOS's next one of the same name.
DEFAULT_FILE_NAME = re.compile(r"(?:^|[/\\])pytorch_lora_weights( ?\(\d+\)|[- ]\d+)?\.safetensors\Z")
# The name that templates and the README give each -> how many modules it has, by which lora.BASES has its base.
MODULE_COUNTS = {
    "lcm-lora-sdxl.safetensors": 788,
    "lcm-lora-ssd-1b.safetensors": 423,
    "Segmind-VegaRT.safetensors": 233,
    "lcm-lora-sdv1-5.safetensors": lora.SD15_MODULE_COUNT,
}
# 64 by the sizes of all files in fp16, except Vega RT's: twice the bytes, so it is that in fp32, or 128.
RANKS = ({(64,)}, {(128,)})
# TCD publishes LoRAs for these bases under the same name, with the same modules and rank. The size of the LCM-LoRA's file
# tells it from TCD's for SDXL (393,854,624); TCD's for SD 1.5 has the same size, too, and is told by its digest.
PUBLISHED_BYTES = {788: 393_855_224, lora.SD15_MODULE_COUNT: 134_621_556}
MAX_HEADER_BYTES = 4 << 20  # of a LoRA's header: SDXL's has some 330,000


class FileContents(NamedTuple):
    """What a file is: the name of the published LCM-LoRA whose modules it has, if any, and what speaks against it."""

    name: str | None
    mismatch: str  # empty where it is certain


def identify(path: Path) -> FileContents:
    """What a file is by its header, which is read again when the file has changed; tensors are read for SD 1.5 alone."""
    try:
        stat = path.stat()
    except OSError as error:
        return FileContents(None, f"it can't be read ({error.strerror})")
    return _identify_cached(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _identify_cached(path: Path, size: int, mtime_ns: int) -> FileContents:
    """As identify(), of a file of this size in bytes and this time of its last change in nanoseconds."""
    try:
        tensors, metadata = read_header(path)
        adapter = lora_keys.group_by_module(path, tensors, lambda ranks: {})
    except (OSError, SafetensorError, ValueError):
        return FileContents(None, "it is no whole LoRA")
    if any(map(lora_keys.is_text_encoder_key, tensors)) or any(key in metadata for key in lora.STYLE_METADATA):
        return FileContents(None, "it looks like a LoRA for a style or a subject")
    if other := few_step_adapters.identify(path, metadata):
        return FileContents(None, f"it is {other.name} by {other.source}")
    has_residual = any(module.endswith(lora.RESIDUAL_MODULES) for module in adapter)
    if not has_residual or not all(map(lora.ADAPTED_MODULES.search, adapter)):
        return FileContents(None, "it is no LCM-LoRA")
    name = next((name for name, modules in MODULE_COUNTS.items() if modules == len(adapter)), None)
    return FileContents(name, mismatch_reason(path, size, adapter) if name else "it is for no base that has a published one")


def mismatch_reason(path: Path, size: int, adapter: dict[str, dict[str, torch.Tensor]]) -> str:
    """Why a file with the modules of a published LCM-LoRA may be something else; empty where nothing speaks against it."""
    published_bytes = PUBLISHED_BYTES.get(len(adapter), size)
    if not all(sides.keys() == {"down", "up", "alpha"} for sides in adapter.values()):
        return "it lacks alphas"
    ranks = {sides["down"].shape[:1] for sides in adapter.values()}
    if ranks not in RANKS:
        return "its rank is another than that of the published ones"
    if size != published_bytes:
        return f"it has {size:,} bytes and not {published_bytes:,}, and TCD's LoRA has the same name and modules"
    says_lcm = few_step_adapters.says_lcm(few_step_adapters.file_title(path))
    if len(adapter) == lora.SD15_MODULE_COUNT and not says_lcm and published_files.recipe_of(path) != recipes.LCM:
        return "it is not the published file, and TCD's LoRA has the same name, modules and size"
    return ""


def read_header(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file without their data, and its metadata.

    SafetensorError where it is none or not whole, ValueError where it has more than a LoRA has.
    """
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > MAX_HEADER_BYTES:
            raise ValueError(f"{path} has a longer header than a LoRA has.")
    with safe_open(path, framework="pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}
        return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, file.metadata() or {}
