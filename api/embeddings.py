"""`embedding:name` in a prompt: only names that the operator allows, of files that the host can read."""

import contextlib
import logging
import re
import threading
from collections.abc import Collection
from pathlib import Path

from comfy.sd1_clip import expand_directory_list, load_embed

from ..nodes import loader
from ..vega import written

# As the host's tokenizer finds them in a part of one emphasis (comfy/sd1_clip.py, _try_get_embedding).
NAMED = re.compile(r"(?:^|(?<=\s))embedding:\s*([^\s<\[]*)")
ENCODER = (768, "clip_l")  # the one that all models have: what can't be read for it is damaged for all


def wrong(words: str, allowed: Collection[str]) -> str | None:
    """Why an embedding that the words name can't be taken, without the name, which may be anything; None if all can."""
    for name in NAMED.findall(words):
        known = name if name in allowed else name.strip(",")  # the host tries both, too
        if known not in allowed:
            some = f"may name {', '.join(allowed)}, and names another" if allowed else "is not allowed on this server"
            return f"`embedding:` {some} (VEGA_API_EMBEDDINGS); write `embedding :` where it is only text"
        if names_too_many(known):
            return f"`embedding:{known}` names a file of more than {written.MOST_TENSORS} tensors, which is no embedding"
        if not is_readable(known):
            return f"`embedding:{known}` has no file that can be read on this server"
    return None


def names_too_many(name: str) -> bool:
    """Whether a file that the host may take for the name has a header that it would read for seconds."""
    folders = expand_directory_list(loader.embedding_folders())
    files = (Path(folder, file) for folder in folders for file in (name, f"{name}.safetensors"))
    return any(file.is_file() and written.names_too_many(file) for file in files)


def is_readable(name: str) -> bool:
    with unlogged():
        try:
            vectors = load_embed(name, loader.embedding_folders(), *ENCODER)
            return vectors is not None and vectors.ndim in (1, 2) and bool(vectors.isfinite().all())
        except Exception:  # whatever a damaged file brings about
            return False


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
