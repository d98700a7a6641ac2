"""A reader of a live picture: it gets the newest result when it has read the one before."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from aiohttp import web

from ..images.encode import EncodedImage
from ..images.live_frames import Frame

READ_PING_PAYLOAD = b"read"  # what a ping asks, and its pong says


@dataclass(frozen=True)
class FrameResult:
    """What came of a frame: its pictures, or a message of another type without any. Some are of no frame."""

    kind: str
    frame: Frame | None
    fields: dict = field(default_factory=dict)
    images: list[EncodedImage] = field(default_factory=list)


class LiveConnection:
    """For use on the server's event loop alone.

    A ping goes after each result, and the next result after its pong, which the reader's library sends when it gets there:
    so of what is newer than the result being read, only the newest waits, and nowhere on the way is there a backlog.
    """

    def __init__(self, socket: web.WebSocketResponse):
        self.socket, self.frame_count = socket, 0
        self.send_lock = asyncio.Lock()  # a picture's two messages stay together
        self.waiting: list[FrameResult] = []  # at most one with pictures, then one without
        self.was_read = asyncio.Event()
        self.sending: asyncio.Task | None = None  # done when nothing waits and all was read

    def frame_number(self, frame: Frame | None) -> int | None:
        """The frame's number among those that this socket sent."""
        return frame.number if frame and frame.sender is self else None

    async def send_message(self, kind: str, **fields) -> None:
        """A text message; nothing where the connection has ended."""
        with contextlib.suppress(ConnectionError):
            async with self.send_lock:
                if not self.socket.closed:
                    await self.socket.send_json({"type": kind, **fields})

    def put_result(self, result: FrameResult) -> None:
        """It takes the place of what waits: pictures of all, a message of another one."""
        self.waiting = [older for older in self.waiting if older.images and not result.images] + [result]
        if self.sending is None or self.sending.done():
            self.sending = asyncio.create_task(self.send_results())

    async def send_results(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self.waiting and not self.socket.closed:
                result = self.waiting.pop(0)
                self.was_read.clear()
                if result.images:
                    await self.send_pictures(result)
                else:
                    await self.send_message(result.kind, frame=self.frame_number(result.frame), **result.fields)
                await self.socket.ping(READ_PING_PAYLOAD)
                await self.was_read.wait()

    async def send_pictures(self, result: FrameResult) -> None:
        """Each as a text message and a binary one."""
        async with self.send_lock:
            for index, image in enumerate(result.images):
                age_ms = round(1000 * (time.perf_counter() - result.frame.arrived_at), 1)
                size = {"format": image.format, "width": image.width, "height": image.height}
                about = {"frame": self.frame_number(result.frame), "index": index, "age_ms": age_ms, **result.fields, **size}
                await self.socket.send_json({"type": result.kind, **about})
                await self.socket.send_bytes(image.data)

    def handle_pong(self, message: bytes) -> None:
        if message == READ_PING_PAYLOAD:  # and not that of the heartbeat
            self.was_read.set()

    def close(self) -> None:
        """Where the socket has ended: nobody reads any more."""
        if self.sending is not None:
            self.sending.cancel()
