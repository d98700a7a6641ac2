"""How large, how slow and how many the bodies of requests may be before the requests are queued."""

import asyncio
import contextlib

from .errors import ApiError, RetryLater

SMALL_BODY_BYTES = 2**16  # a request without an image, which is read at once
MAX_LARGE_BODIES = 4  # larger or compressed ones that are read at a time; the others wait unread
LARGE_BODY_WAIT_TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 2**19  # of a larger body that must arrive within the timeout; of a small one, all
CHUNK_TIMEOUT_SECONDS = 10.0


class BodyLimits:
    """For use on one event loop."""

    def __init__(self, max_mib: int, timeout_s: float = CHUNK_TIMEOUT_SECONDS):
        self.max_mib, self.timeout_s = max_mib, timeout_s
        self.large_bodies = asyncio.Semaphore(MAX_LARGE_BODIES)

    @property
    def max_bytes(self) -> int:
        return self.max_mib * 2**20

    def too_large_error(self) -> ApiError:
        return ApiError(413, f"The body is larger than {self.max_mib} MiB.", close=True)

    def timed_out_error(self, chunk_bytes: int) -> ApiError:
        message = f"The body stands still: its next {chunk_bytes // 2**10} KiB did not come within {self.timeout_s:g} s."
        return ApiError(408, message, close=True)

    @contextlib.asynccontextmanager
    async def large_body(self):
        """Holds one of the places for large bodies; ApiError 429 if none is free in time."""
        try:
            await asyncio.wait_for(self.large_bodies.acquire(), LARGE_BODY_WAIT_TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            raise RetryLater(429, "Too many large bodies are on their way", round(self.timeout_s), close=True) from None
        try:
            yield
        finally:
            self.large_bodies.release()
