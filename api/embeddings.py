"""`embedding:name` in a prompt: only names that the operator allows, of files that the host uses without changes."""

import asyncio
import contextlib
import logging
import re
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from comfy.sd1_clip import expand_directory_list, load_embed

from ..nodes import model_lists
from ..vega import file_integrity, hidden_sizes

# As the host's tokenizer finds them in a part of one emphasis (comfy/sd1_clip.py, _try_get_embedding).
EMBEDDING_PATTERN = re.compile(r"(?:^|(?<=\s))embedding:\s*([^\s<\[]*)")
# By which the host's tokenizers choose among a file's vectors, whatever the encoder's width (there, and comfy/sdxl_clip.py).
TOKENIZER_WIDTHS = {"clip_l": 768, "clip_g": 1280}
MAX_FP16 = 65504.0  # the encoders compute in fp16 on a GPU
EXECUTOR = ThreadPoolExecutor(2, "vega_embeddings")  # its own: a drive that hangs holds up no other work


def find_names(text: str, allowed: Collection[str]) -> list[str | None]:
    """The name of each embedding in the text, as the host tries it with and without commas; None: not allowed."""
    names = [name if name in allowed else name.strip(",") for name in EMBEDDING_PATTERN.findall(text)]
    return [name if name in allowed else None for name in names]


def name_error(text: str, allowed: Collection[str]) -> str | None:
    """Why an embedding in the text isn't allowed, without its name, which may be anything; None if all are allowed."""
    if None in find_names(text, allowed):
        problem = f"may name {', '.join(allowed)}, and names another" if allowed else "is not allowed on this server"
        return f"`embedding:` {problem} (VEGA_API_EMBEDDINGS); write `embedding :` where it is only text"
    return None


async def file_error(names: Collection[str], model: str) -> str | None:
    """Why the host would ignore one of these embeddings, or use it wrongly; None if it uses all of them.

    The files are read in a thread. ValueError where the model can't be read.
    """
    return await asyncio.get_running_loop().run_in_executor(EXECUTOR, find_file_error, names, model)


def find_file_error(names: Collection[str], model: str) -> str | None:
    widths = hidden_sizes.of_text_encoders(model_lists.model_path(model))
    for name in names:
        if has_too_many_tensors(name):
            most = file_integrity.MAX_TENSORS
            return f"`embedding:{name}` names a file of more than {most} tensors, which is no embedding"
        for encoder, width in widths.items():
            vectors = load_vectors(name, encoder)
            if vectors is None:
                return f"`embedding:{name}` has no file that can be read on this server, or a damaged one"
            if vectors.shape[-1] != width:
                found = f"vectors of {vectors.shape[-1]} values for {encoder}"
                return f"`embedding:{name}` is of another family of models: it has {found}, and this model takes {width}"
    return None


def has_too_many_tensors(name: str) -> bool:
    """Whether a file that the host may take for the name has a header that takes seconds to parse."""
    folders = expand_directory_list(model_lists.embedding_folders())
    files = (Path(folder, file) for folder in folders for file in (name, f"{name}.safetensors"))
    return any(file.is_file() and file_integrity.has_too_many_tensors(file) for file in files)


def load_vectors(name: str, encoder: str):
    """[tokens, width] float32, as the host gives them to the encoder; None where it would fail, or find none."""
    with muted_log():
        try:
            vectors = load_embed(name, model_lists.embedding_folders(), TOKENIZER_WIDTHS[encoder], encoder)
            rows = vectors.float().reshape(-1, vectors.shape[-1])
            is_matrix = len(rows) == (1 if vectors.ndim == 1 else len(vectors))
            is_finite = bool((rows.abs() <= MAX_FP16).all())
            return rows if rows.numel() and is_matrix and is_finite else None
        except Exception:  # whatever a damaged file brings about
            return None


@contextlib.contextmanager
def muted_log():
    """Drops what the host logs in this thread, which may quote a prompt: the client gets the error."""
    thread, log = threading.get_ident(), logging.getLogger()

    def is_other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    log.addFilter(is_other_thread)
    try:
        yield
    finally:
        log.removeFilter(is_other_thread)
