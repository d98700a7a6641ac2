"""Writing files that are either complete or absent, and telling one content from another."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

END_BYTES = 2**20


@contextmanager
def atomic_write(path: Path):
    """Gives a path to write a file or folder to; it becomes `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
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


def fingerprint_of_ends(files: list[Path]) -> str:
    """As fingerprint(), of the files' sizes, first and last megabytes: of several gigabytes in no time."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest.update(str(size).encode())
            for start in (0, max(0, size - END_BYTES)):
                stream.seek(start)
                digest.update(stream.read(END_BYTES))
    return digest.hexdigest()[:12]
