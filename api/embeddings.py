"""`embedding:name` in a prompt: only names that the operator allows, of files that the host uses as they are."""

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
NAMED = re.compile(r"(?:^|(?<=\s))embedding:\s*([^\s<\[]*)")
# By which the host's tokenizers choose among a file's vectors, whatever the encoder's width (there, and comfy/sdxl_clip.py).
SOUGHT = {"clip_l": 768, "clip_g": 1280}
MOST = 65504.0  # fp16's, in which the encoders compute on a GPU
READERS = ThreadPoolExecutor(2, "vega_embeddings")  # of their own: a drive that hangs holds up no other work


def known(words: str, allowed: Collection[str]) -> list[str | None]:
    """The name of each embedding that the words name, as the host tries it with and without commas; None: not allowed."""
    names = [name if name in allowed else name.strip(",") for name in NAMED.findall(words)]
    return [name if name in allowed else None for name in names]


def wrong(words: str, allowed: Collection[str]) -> str | None:
    """Why an embedding that the words name isn't taken, without the name, which may be anything; None if all are allowed."""
    if None in known(words, allowed):
        some = f"may name {', '.join(allowed)}, and names another" if allowed else "is not allowed on this server"
        return f"`embedding:` {some} (VEGA_API_EMBEDDINGS); write `embedding :` where it is only text"
    return None


async def unusable(names: Collection[str], model: str) -> str | None:
    """Why the host would draw another picture than one with these embeddings, or none; None if it uses all of them.

    Read beside the event loop. ValueError where the model can't be read.
    """
    return await asyncio.get_running_loop().run_in_executor(READERS, why_unusable, names, model)


def why_unusable(names: Collection[str], model: str) -> str | None:
    widths = hidden_sizes.of_text_encoders(model_lists.model_path(model))
    for name in names:
        if names_too_many(name):
            most = file_integrity.MAX_TENSORS
            return f"`embedding:{name}` names a file of more than {most} tensors, which is no embedding"
        for encoder, width in widths.items():
            vectors = read(name, encoder)
            if vectors is None:
                return f"`embedding:{name}` has no file that can be read on this server, or a damaged one"
            if vectors.shape[-1] != width:
                own = f"vectors of {vectors.shape[-1]} values for {encoder}"
                return f"`embedding:{name}` is of another family of models: it has {own}, and this model takes {width}"
    return None


def names_too_many(name: str) -> bool:
    """Whether a file that the host may take for the name has a header that it would read for seconds."""
    folders = expand_directory_list(model_lists.embedding_folders())
    files = (Path(folder, file) for folder in folders for file in (name, f"{name}.safetensors"))
    return any(file.is_file() and file_integrity.has_too_many_tensors(file) for file in files)


def read(name: str, encoder: str):
    """The vectors that the host would put into the encoder's prompt, one a row; None where it would fail, or find none."""
    with unlogged():
        try:
            vectors = load_embed(name, model_lists.embedding_folders(), SOUGHT[encoder], encoder)
            rows = vectors.float().reshape(-1, vectors.shape[-1])
            is_whole = len(rows) == (1 if vectors.ndim == 1 else len(vectors)) and bool((rows.abs() <= MOST).all())
            return rows if rows.numel() and is_whole else None
        except Exception:  # whatever a damaged file brings about
            return None


@contextlib.contextmanager
def unlogged():
    """What the host would log of this thread's work, a prompt's words among it, is not logged: the client is told."""
    thread, log = threading.get_ident(), logging.getLogger()

    def is_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    log.addFilter(is_others)
    try:
        yield
    finally:
        log.removeFilter(is_others)
