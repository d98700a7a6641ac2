"""Whether the server can draw: it has, once."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

from .host_client import PromptError

RETRY_INTERVAL_SECONDS = 10  # after a warm-up that failed
RETRY_AFTER_SECONDS = 2  # told to clients during a warm-up


class Readiness:
    """warm_up draws a picture. For use on the server's event loop alone."""

    def __init__(self, warm_up: Callable[[], Awaitable[None]]):
        self.warm_up = warm_up
        self.is_ready = False
        self.task: asyncio.Task | None = None
        self.failure = ""  # of the last warm-up
        self.next_attempt = 0.0  # of time.monotonic

    def check(self, request_id: str) -> tuple[str, int] | None:
        """(why the server isn't ready, seconds until to ask again); None once it is. The first check starts the warm-up.

        Where the warm-up fails the log names request_id.
        """
        if self.is_ready:
            return None
        if self.task is None and time.monotonic() >= self.next_attempt:
            self.task = asyncio.create_task(self.run_warm_up(request_id))
        if self.task:
            return "The first picture is being drawn", RETRY_AFTER_SECONDS
        return self.failure, max(1, math.ceil(self.next_attempt - time.monotonic()))

    async def run_warm_up(self, request_id: str) -> None:
        try:
            await self.warm_up()
            self.is_ready = True
        except Exception as error:
            is_logged = isinstance(error, PromptError)  # by the host, with its traceback
            message = "Vega API: request %s: the first picture failed: %s"
            logging.error(message, request_id, error, exc_info=None if is_logged else error)
            self.failure = f"The first picture could not be drawn; the server's log says why under {request_id}"
            self.next_attempt = time.monotonic() + RETRY_INTERVAL_SECONDS
        finally:
            self.task = None
