"""Kinds of pictures that fail together and not alone, as where the GPU's memory ends: they are drawn apart for a while."""

import time

SHOWN = 2  # failures together, with each picture then drawn alone and no success together in between
SECONDS = 600.0  # after which they are tried together again


class Apart:
    """What was shown of each kind; a failure that may be one picture's own shows nothing."""

    def __init__(self):
        self.failures: dict[tuple, int] = {}
        self.until: dict[tuple, float] = {}  # of time.monotonic

    def holds(self, kind: tuple) -> bool:
        if kind in self.until and self.until[kind] <= time.monotonic():
            del self.until[kind]
        return kind in self.until

    def drawn_together(self, kind: tuple) -> None:
        self.failures.pop(kind, None)

    def each_drawn_alone(self, kind: tuple) -> None:
        """Pictures that failed together, and none of them by itself."""
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if self.failures[kind] >= SHOWN:
            del self.failures[kind]
            self.until[kind] = time.monotonic() + SECONDS
