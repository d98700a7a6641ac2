"""Writing files that are either complete or absent, and telling one content from another."""

import glob
import hashlib
import os
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

PARTIAL = ".partial"  # the ending of what is being written
LEFTOVER_SECONDS = 3600  # since somebody wrote to it last
END_BYTES = 2**20
BLOCKS, BLOCK_BYTES = 256, 2**16


@contextmanager
def atomic_write(path: Path):
    """Gives a path of this process's own to write a file or folder to; it becomes `path` when the block ends well.

    OSError with a sentence where it can't be written, also for safetensors' own error.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path} can't be written ({error}). Make room, and give the same command again: what is saved is kept."
        ) from error
    finally:
        remove(partial)


def remove_leftovers(path: Path) -> None:
    """What processes that were killed had written of a file or folder by then, which may be gigabytes.

    By its age: whether a process lives can't be told where another machine or container shares the folder.
    """
    for partial in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        with suppress(FileNotFoundError):  # it may become what it was written for meanwhile
            age = time.time() - max(file.stat().st_mtime for file in (partial, *partial.rglob("*")))
            if age > LEFTOVER_SECONDS:
                remove(partial)


def check_writable(folder: Path, option: str) -> None:
    """ValueError naming the option where no file can be written to the folder, which is made if it is missing."""
    probe = folder / f".{os.getpid()}{PARTIAL}"  # tempfile's would be tried for ever where Windows denies access
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("xb"):
            pass
        probe.unlink()
    except OSError as error:
        raise ValueError(f"Nothing can be written to {option} {folder} ({error}): choose another folder.") from error


def remove(path: Path) -> None:
    """What can be removed of a file or folder."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


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
