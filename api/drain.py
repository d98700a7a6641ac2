"""Graceful shutdown: after SIGTERM requests in progress are finished, no new ones accepted, and then the process ends."""

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

from ..contract.errors import RetryLater

DRAIN_TIMEOUT_SECONDS = 300  # as a replica of Ray Serve has
FETCH_GRACE_SECONDS = 5.0  # for a client of /v2, which polls about once a second, to fetch its result
POLL_INTERVAL_SECONDS = 0.1
RETRY_AFTER_SECONDS = 2


class ServerStopping(RetryLater):
    """No new request is accepted: the client is to ask again, when another process may have taken this one's place."""

    def __init__(self):
        super().__init__(503, "The server is being stopped", RETRY_AFTER_SECONDS, close=True)


class Drain:
    """For use on the server's event loop alone."""

    def __init__(self):
        self.active_requests = 0  # queued or executed
        self.responses = WeakKeyDictionary()  # the last ones with pictures -> their connections' transports
        self.fetch_deadline = 0.0  # for results of /v2, of time.monotonic
        self.is_draining = False
        self.previous_handler = None  # of SIGTERM

    def install(self) -> None:
        """Handles SIGTERM from now on. Only the main thread may, and Windows has no such signal."""
        handler = signal.getsignal(signal.SIGTERM)
        is_main = threading.current_thread() is threading.main_thread()
        if os.name == "nt" or not is_main or handler in (None, signal.SIG_IGN):  # None: not Python's own handler
            return
        self.previous_handler, self.loop = handler, asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, self.on_signal)

    def check(self) -> None:
        """ServerStopping after SIGTERM."""
        if self.is_draining:
            raise ServerStopping()

    @contextlib.contextmanager
    def active_request(self) -> Iterator[None]:
        """The process waits for what is done inside; ServerStopping after SIGTERM."""
        self.check()
        self.active_requests += 1
        try:
            yield
        finally:
            self.active_requests -= 1

    def wait_for_response(self, response: web.Response, transport: asyncio.Transport | None) -> None:
        """The host's server is about to write the response to the transport."""
        if transport is not None:
            self.responses[response] = transport

    def wait_for_fetch(self) -> None:
        """A request of /v2 has just ended: its client has yet to fetch the result."""
        self.fetch_deadline = time.monotonic() + FETCH_GRACE_SECONDS

    def is_busy(self) -> bool:
        are_flushed = all(is_flushed(*item) for item in self.responses.items())
        return self.active_requests > 0 or time.monotonic() < self.fetch_deadline or not are_flushed

    def on_signal(self, *_) -> None:
        """A second signal goes to the previous handler at once."""
        signal.signal(signal.SIGTERM, self.previous_handler)
        self.loop.call_soon_threadsafe(self.start)

    def start(self) -> None:
        self.is_draining = True
        self.task = self.loop.create_task(self.run())

    async def run(self) -> None:
        if self.is_busy():
            message = "Vega API: SIGTERM: what has begun (%s requests) is finished first, in at most %s s; "
            message += "another one ends it."
            logging.info(message, self.active_requests, DRAIN_TIMEOUT_SECONDS)
        deadline = time.monotonic() + DRAIN_TIMEOUT_SECONDS
        while self.is_busy() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
        if self.is_busy():
            message = "Vega API: %s requests are not finished after %s s, and lost."
            logging.warning(message, self.active_requests, DRAIN_TIMEOUT_SECONDS)
        self.terminate()

    def terminate(self) -> None:
        """By the signal, as without this pack, so that its sender sees that it ended the process."""
        signal.raise_signal(signal.SIGTERM)
        if self.previous_handler == signal.SIG_DFL:  # which does nothing in the first process of a container
            os._exit(128 + signal.SIGTERM)


def is_flushed(response: web.Response, transport: asyncio.Transport) -> bool:
    """Whether the kernel has all of it, or the connection is closing."""
    return transport.is_closing() or (response.body_length > 0 and transport.get_write_buffer_size() == 0)
