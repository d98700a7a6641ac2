"""SIGTERM while pictures are asked for: what has begun is finished, nothing new is begun, and then the process ends."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from aiohttp import web

LIMIT = 300  # seconds that a server has to finish, as a replica of Ray Serve has
FETCHING = 5.0  # seconds in which a client of /v2, which asks once a second or so, fetches what has been drawn
LOOKS = 0.1  # seconds between two looks at whether it has
RETRY_AFTER = 2  # seconds


class Stopping(Exception):
    """Nothing new is begun: the client is to ask again, by then whoever takes the server's place."""

    headers = {"Retry-After": str(RETRY_AFTER), "Connection": "close"}

    def __init__(self):
        super().__init__(f"The server is being stopped; ask again in {RETRY_AFTER} s.")


class Drain:
    """For use on the server's event loop alone."""

    def __init__(self):
        self.requests = 0  # that wait or are drawn
        self.answers = WeakKeyDictionary()  # with pictures, the last ones: each with its connection's transport
        self.fetched = 0.0  # when all of /v2 is, by time.monotonic
        self.is_draining = False
        self.before = None  # what SIGTERM did

    def listen(self) -> None:
        """From now on SIGTERM drains first. Only the main thread may say so, and Windows has no such signal."""
        before = signal.getsignal(signal.SIGTERM)
        is_main = threading.current_thread() is threading.main_thread()
        if os.name == "nt" or not is_main or before in (None, signal.SIG_IGN):  # None: not Python's own handler
            return
        self.before, self.loop = before, asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, self.on_signal)

    def check(self) -> None:
        if self.is_draining:
            raise Stopping()

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Of one request; Stopping where it comes too late."""
        self.check()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def watch(self, response: web.Response, transport: asyncio.Transport | None) -> None:
        """An answer that the host's server is now to write."""
        if transport is not None:
            self.answers[response] = transport

    def wait_for_fetching(self) -> None:
        """Something of /v2 has ended now: its client doesn't know it yet."""
        self.fetched = time.monotonic() + FETCHING

    def is_busy(self) -> bool:
        are_written = all(is_written(*answer) for answer in self.answers.items())
        return self.requests > 0 or time.monotonic() < self.fetched or not are_written

    def on_signal(self, *_) -> None:
        """A second one does what it did before, at once."""
        signal.signal(signal.SIGTERM, self.before)
        self.loop.call_soon_threadsafe(self.begin)

    def begin(self) -> None:
        self.is_draining = True
        self.finishing = self.loop.create_task(self.finish())

    async def finish(self) -> None:
        if self.is_busy():
            said = "Vega API: SIGTERM: what has begun (%s requests) is finished first, in at most %s s; another one ends it."
            logging.info(said, self.requests, LIMIT)
        end = time.monotonic() + LIMIT
        while self.is_busy() and time.monotonic() < end:
            await asyncio.sleep(LOOKS)
        if self.is_busy():
            logging.warning("Vega API: %s requests are not finished after %s s, and lost.", self.requests, LIMIT)
        self.end()

    def end(self) -> None:
        """By the signal, as without this pack, so that who sent it sees that it ended the process."""
        signal.raise_signal(signal.SIGTERM)
        if self.before == signal.SIG_DFL:  # which the first process of a container is spared
            os._exit(128 + signal.SIGTERM)


def is_written(response: web.Response, transport: asyncio.Transport) -> bool:
    """Whether the kernel has all of it, or nobody waits for it."""
    return transport.is_closing() or (response.body_length > 0 and transport.get_write_buffer_size() == 0)
