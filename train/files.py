"""Writing files that are either complete or absent, and telling one content from another."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

END_BYTES = 2**20
BLOCKS, BLOCK_BYTES = 256, 2**16


@contextmanager
def atomic_write(path: Path):
    """Gives a path of this process's own to write a file or folder to; it becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)


def fingerprint(files: list[Path]) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of the files' contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def sampled_fingerprint(files: list[Path]) -> str:
    """As fingerprint(), of the files' sizes, their first and last megabytes, and blocks all over: of gigabytes in no time.

    A part that was replaced is seen wherever it lies, if it is larger than the BLOCKS-th part of its file.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest.update(str(size).encode())
            parts = [(0, END_BYTES), (max(0, size - END_BYTES), END_BYTES)]
            parts += [(k * size // BLOCKS, BLOCK_BYTES) for k in range(BLOCKS)]
            for start, count in parts:
                stream.seek(start)
                digest.update(stream.read(count))
    return digest.hexdigest()[:12]
