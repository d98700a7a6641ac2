"""The host's websocket: one connection for all prompts, opened anew whenever it breaks."""

import asyncio
import contextlib
import itertools
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterator

import websockets
import websockets.client

from .errors import ConnectError
from .retry import RetryPolicy, is_tls_error

RECONNECT_SECONDS = 0.5  # between two attempts
PREVIEW_IMAGE_WITH_METADATA = 4  # the host's protocol.BinaryEventTypes
Listener = Callable[[str, dict, bytes | None], None]  # event, its data, an image file


class Events:
    """Calls each listener with what happens to its prompt. After every connection the event is "connected", for all of them.

    What happened while there was no connection is not sent again: "connected" is when to ask.
    """

    def __init__(self, url: str, policy: RetryPolicy, **options):
        self.url, self.policy, self.options = url, policy, options
        self.listeners: dict[str, Listener] = {}
        self.connected = asyncio.Event()
        self.task: asyncio.Task | None = None

    @contextlib.asynccontextmanager
    async def subscribe(self, prompt_id: str, listener: Listener) -> AsyncIterator[None]:
        """Events of a prompt go to the listener within; what it raises is raised at the end."""
        if self.task is None or self.task.done():  # a proxy's refusal ends it, perhaps for a while only
            self.task = asyncio.create_task(self.run())
        errors: list[Exception] = []

        def guarded(*event) -> None:
            try:
                listener(*event)
            except Exception as error:  # the connection serves others as well: only this caller gets it
                errors.append(error)

        self.listeners[prompt_id] = guarded
        try:
            await self.wait_connected()
            yield
            if errors:
                raise errors[0]
        finally:
            del self.listeners[prompt_id]

    async def wait_connected(self) -> None:
        """Returns when there is a connection; ConnectError in a sentence where there is none in time."""
        address = self.url.partition("?")[0]
        has_connected = await has_come(self.connected, self.policy.seconds, self.task)  # and may have broken again since
        if self.task.cancelled():
            raise ConnectError("This client has been closed.")
        if self.task.done():
            raise ConnectError(f"{address} is no ComfyUI's: {self.task.exception()}.")
        if not has_connected:
            raise ConnectError(f"Nothing answers at {address}.")

    async def run(self) -> None:
        connections = websockets.connect(
            self.url,
            max_size=None,
            reconnect_delays=self.reconnect_delays,
            process_exception=process_exception,
            **self.options,
        )
        async with contextlib.aclosing(aiter(connections)) as sockets:  # else it is closed when the loop has ended
            async for socket in sockets:
                try:
                    await self.receive(socket)
                except websockets.ConnectionClosed:
                    pass
                finally:
                    self.connected.clear()

    def reconnect_delays(self) -> Iterator[float]:
        """Seconds until the next attempts; called when the first one has failed."""
        self.policy.warn()
        return itertools.repeat(RECONNECT_SECONDS)

    async def receive(self, socket: websockets.ClientConnection) -> None:
        await socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        self.connected.set()
        self.policy.has_answered = True
        for listener in list(self.listeners.values()):
            listener("connected", {}, None)
        async for message in socket:
            self.dispatch(message)

    def dispatch(self, message: str | bytes) -> None:
        if isinstance(message, str):
            event = json.loads(message)
            kind, data, file = event["type"], event["data"], None
        else:
            (frame_type,) = struct.unpack(">I", message[:4])
            if frame_type != PREVIEW_IMAGE_WITH_METADATA:
                return
            (length,) = struct.unpack(">I", message[4:8])
            kind, data, file = "preview", json.loads(message[8 : 8 + length]), message[8 + length :]
        if isinstance(data, dict) and (listener := self.listeners.get(data.get("prompt_id"))):
            listener(kind, data, file)

    async def close(self) -> None:
        if self.task:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self.task


async def has_come(event: asyncio.Event, seconds: float | None, *ends: asyncio.Task) -> bool:
    """Whether an event came in so many seconds, before one of the tasks ended.

    On Python 3.11 and older asyncio.wait_for loses a cancellation that comes with the event.
    """
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([waiting, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return waiting.done()
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


def process_exception(error: Exception) -> Exception | None:
    """The error where it ends the attempts at a connection, as websockets' own function of the name."""
    return error if is_tls_error(error) else websockets.client.process_exception(error)
