"""The progress bar in the server's log."""

import contextlib
import sys

from tqdm.auto import trange


class TolerantStderr:
    """Standard error; a write that fails (a full disk behind it) is ignored, so that it costs no picture."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str):
        return getattr(sys.stderr, name)


def step_range(count: int, disable: bool):
    """range(count) with a progress bar, which appears after a second."""
    return trange(count, disable=disable, delay=1, file=TolerantStderr())
