"""Batches that fail although each of their pictures succeeds alone, as where they don't fit in the GPU's memory."""

import time

MAX_FAILURES = 2  # of batches with one key, without a success in between
UNBATCHABLE_TTL_SECONDS = 600.0  # after which batches are tried again


class UnbatchableKeys:
    """The batch keys whose pictures are executed one by one for a while."""

    def __init__(self):
        self.failures: dict[tuple, int] = {}
        self.expires_at: dict[tuple, float] = {}  # of time.monotonic

    def __contains__(self, key: tuple) -> bool:
        if key in self.expires_at and self.expires_at[key] <= time.monotonic():
            del self.expires_at[key]
        return key in self.expires_at

    def record_success(self, key: tuple) -> None:
        self.failures.pop(key, None)

    def record_failure(self, key: tuple) -> None:
        """Of a batch whose pictures have all succeeded alone afterwards; any other failure may be one picture's own."""
        self.failures[key] = self.failures.get(key, 0) + 1
        if self.failures[key] >= MAX_FAILURES:
            del self.failures[key]
            self.expires_at[key] = time.monotonic() + UNBATCHABLE_TTL_SECONDS
