"""Whether the server can draw: it has, once."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

from .host_client import PromptError

AGAIN = 10  # seconds after which a picture that failed is tried again, if somebody asks
SOON = 2  # seconds after which it is worth asking whether the picture is there


class Readiness:
    """warm_up draws a picture. For use on the server's event loop alone."""

    def __init__(self, warm_up: Callable[[], Awaitable[None]]):
        self.warm_up = warm_up
        self.is_ready = False
        self.drawing: asyncio.Task | None = None
        self.failure, self.again = "", 0.0  # why the last try failed, and when the next may be, by time.monotonic

    def look(self, id: str) -> tuple[str, int] | None:
        """Why the server isn't ready, and in how many seconds to ask again; None once it is. The first look draws.

        id: of the request that asks; the log names it where the picture fails.
        """
        if self.is_ready:
            return None
        if self.drawing is None and time.monotonic() >= self.again:
            self.drawing = asyncio.create_task(self.draw(id))
        if self.drawing:
            return "The first picture is being drawn", SOON
        return self.failure, max(1, math.ceil(self.again - time.monotonic()))

    async def draw(self, id: str) -> None:
        try:
            await self.warm_up()
            self.is_ready = True
        except Exception as error:
            of_a_node = isinstance(error, PromptError)  # the host has logged its traceback
            logging.error(
                "Vega API: request %s: the first picture failed: %s", id, error, exc_info=None if of_a_node else error
            )
            self.failure = f"The first picture could not be drawn; the server's log says why under {id}"
            self.again = time.monotonic() + AGAIN
        finally:
            self.drawing = None
