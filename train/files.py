"""Writing files that are either complete or absent, and telling one content from another."""

import hashlib
import shutil
from contextlib import contextmanager
from pathlib import Path


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
