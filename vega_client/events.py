"""The host's websocket: one connection for everything, opened anew whenever it breaks."""

import asyncio
import contextlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator

import websockets

from .patience import Patience

DELAY = 0.5  # seconds between two attempts at one
METADATA_FRAME = 4  # the host's preview image with metadata
Listener = Callable[[str, dict, bytes | None], None]  # event, its data, a picture file


class Events:
    """Tells each listener what happens to its prompt. After every connection the event is "connected", for everyone.

    What happened while there was no connection is not told: "connected" is when to ask.
    """

    def __init__(self, url: str, patience: Patience, **options):
        self.url, self.patience, self.options = url, patience, options
        self.listeners: dict[str, Listener] = {}
        self.connected = asyncio.Event()
        self.task: asyncio.Task | None = None

    @contextlib.asynccontextmanager
    async def of(self, prompt_id: str, listener: Listener):
        if self.task is None or self.task.done():  # a proxy's refusal ends it, perhaps for a while only
            self.task = asyncio.create_task(self.listen())
        failed: list[Exception] = []

        def hear(*happened) -> None:
            try:
                listener(*happened)
            except Exception as error:  # the connection is everyone's: only this one's caller is told
                failed.append(error)

        self.listeners[prompt_id] = hear
        try:
            await self.connection()
            yield
            if failed:
                raise failed[0]
        finally:
            del self.listeners[prompt_id]

    async def connection(self) -> None:
        """Returns when there is one; ConnectionError in a sentence where there is none in time."""
        address = self.url.partition("?")[0]
        waiting = asyncio.create_task(self.connected.wait())
        try:
            await asyncio.wait([waiting, self.task], timeout=self.patience.seconds, return_when=asyncio.FIRST_COMPLETED)
            has_connected = waiting.done()  # the connection may have broken again since
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
        if self.task.cancelled():
            raise ConnectionError("This client has been closed.")
        if self.task.done():
            raise ConnectionError(f"{address} is no ComfyUI's: {self.task.exception()}.")
        if not has_connected:
            raise ConnectionError(f"Nothing answers at {address}.")

    async def listen(self) -> None:
        connect = websockets.connect(self.url, max_size=None, reconnect_delays=self.delays, **self.options)
        async with contextlib.aclosing(aiter(connect)) as sockets:  # else it is closed when the loop has ended
            async for socket in sockets:
                try:
                    await self.hear(socket)
                except websockets.ConnectionClosed:
                    pass
                finally:
                    self.connected.clear()

    def delays(self) -> Iterator[float]:
        """Seconds until the next attempts, asked for when the first one has failed."""
        self.patience.warn()
        return itertools.repeat(DELAY)

    async def hear(self, socket: websockets.ClientConnection) -> None:
        await socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        self.connected.set()
        self.patience.answered = True
        for listener in list(self.listeners.values()):
            listener("connected", {}, None)
        async for message in socket:
            self.tell(message)

    def tell(self, message: str | bytes) -> None:
        if isinstance(message, str):
            event = json.loads(message)
            kind, data, file = event["type"], event["data"], None
        else:
            (kind,) = struct.unpack(">I", message[:4])
            if kind != METADATA_FRAME:
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
