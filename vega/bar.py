"""The progress bar in the server's log."""

import contextlib
import sys

from tqdm.auto import trange


class Log:
    """Standard error, but that a full disk behind it costs no picture."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str):
        return getattr(sys.stderr, name)


def steps(count: int, disable: bool):
    """range(count) with a bar; what is done in a second needs none."""
    return trange(count, disable=disable, delay=1, file=Log())
