"""A live picture over the server's websocket /vega/live: frames go in, the newest is drawn, pictures come out."""

import asyncio
import contextlib
import io
import itertools
import json
import time
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

import websockets
from PIL import Image

from .errors import ConnectError, RequestError, WorkflowError
from .images import decode_image
from .retry import RetryPolicy, is_tls_error

RECONNECT_SECONDS = 0.5
JPEG_QUALITY = 90
MAX_MESSAGE_BYTES = 8 * 2**20  # the server's; it ends the connection at a larger one
MESSAGE_TOO_BIG = 1009  # the code with which it ends


@dataclass(frozen=True)
class LivePicture:
    """A picture, which of the frames it was drawn from (the first is 1), and how long after that frame was sent it came."""

    image: Image.Image
    frame: int
    age_s: float


class LatestFrame:
    """The newest of the caller's frames, whatever the connection does."""

    def __init__(self):
        self.number, self.file, self.ended = 0, b"", False
        self.changed = asyncio.Event()
        self.drawn = 0  # the number of the last frame that was answered

    async def read(self, frames: AsyncIterable[Image.Image | bytes]) -> None:
        try:
            async for frame in frames:
                file = frame if isinstance(frame, bytes) else await asyncio.to_thread(encode_jpeg, frame)
                check_message_size(f"Frame {self.number + 1}", len(file))
                self.number, self.file = self.number + 1, file
                self.changed.set()
        finally:
            self.ended = True
            self.changed.set()

    def is_done(self) -> bool:
        return self.ended and self.drawn == self.number


async def stream(
    url: str, headers: dict, policy: RetryPolicy, prompt: dict, frames: AsyncIterable[Image.Image | bytes], **options
) -> AsyncIterator[LivePicture]:
    """The pictures, until the last frame has its own. Opens the connection anew where it breaks; options are websockets'.

    RequestError for what the server refuses, WorkflowError for a graph or a frame that it can't draw, ConnectError where
    nothing answers for the policy's time.
    """
    message = json.dumps({"type": "prompt", "prompt": prompt})
    check_message_size("The graph", len(message))
    newest = LatestFrame()
    reading = asyncio.create_task(newest.read(frames))
    last_seen = time.monotonic()
    try:
        while not newest.is_done():
            try:
                async with (
                    websockets.connect(
                        url, additional_headers=headers, max_size=None, compression=None, **options
                    ) as socket,
                    contextlib.aclosing(yield_pictures(socket, message, newest)) as found,
                ):
                    policy.has_answered = True
                    try:
                        async for picture in found:
                            yield picture
                    finally:
                        last_seen = time.monotonic()
            except websockets.InvalidStatus as error:
                refusal = refusal_error(error)
                if refusal.status < 500:
                    raise refusal from None
            except (OSError, TimeoutError, websockets.WebSocketException) as error:
                if isinstance(error, websockets.ConnectionClosed) and error.rcvd and error.rcvd.code == MESSAGE_TOO_BIG:
                    raise RequestError(f"A message is too large for {url.partition('?')[0]}.", 413) from None
                if is_tls_error(error):
                    raise ConnectError(f"TLS with {url.partition('?')[0]} fails: {error}") from None
            if not newest.is_done():
                policy.warn()
                if time.monotonic() - last_seen > policy.seconds:
                    raise ConnectError(f"Nothing answers at {url.partition('?')[0]}.")
                await asyncio.sleep(RECONNECT_SECONDS)
        await reading  # what the caller's frames have raised
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def yield_pictures(
    socket: websockets.ClientConnection, prompt: str, newest: LatestFrame
) -> AsyncIterator[LivePicture]:
    """Those of one connection; of what came while the caller was busy with one, the newest."""
    sent: dict[int, tuple[int, float]] = {}  # the number on this connection -> (the frame's number, when it was sent)
    unread: list[tuple[bytes, int, float]] = []  # the pictures of one frame: (file, the frame's number, its age in s)
    has_changed = asyncio.Event()
    sending = asyncio.create_task(send_frames(socket, prompt, newest, sent))
    receiving = asyncio.create_task(receive_messages(socket, prompt, newest, sent, unread, has_changed))
    receiving.add_done_callback(lambda _: has_changed.set())
    try:
        while not (receiving.done() and not unread):
            await has_changed.wait()
            has_changed.clear()
            while unread:
                file, number, age = unread.pop(0)
                yield LivePicture(await asyncio.to_thread(decode_image, file), number, age)
        receiving.result()
    finally:
        for task in (sending, receiving):
            task.cancel()
        await asyncio.wait([sending, receiving])


async def receive_messages(
    socket: websockets.ClientConnection,
    prompt: str,
    newest: LatestFrame,
    sent: dict,
    unread: list,
    has_changed: asyncio.Event,
) -> None:
    """Reads until the last frame has its answer, or the connection ends; WorkflowError for what can't be drawn."""
    about: dict = {}
    async for message in socket:
        if isinstance(message, str):
            is_first, about = not about, json.loads(message)
            if about["type"] == "waiting" and not is_first:  # another one of this name has brought a graph, and has gone
                await socket.send(prompt)
            if about["type"] == "error":
                raise WorkflowError(about["message"])
            if about["type"] not in ("same", "interrupted"):
                continue
        if (answered := sent.get(about["frame"])) is None:  # another's frame
            continue
        number, at = answered
        newest.drawn = number
        for passed in [older for older in sent if older < about["frame"]]:
            del sent[passed]
        if isinstance(message, bytes):
            if about["index"] == 0:
                unread.clear()
            unread.append((message, number, time.monotonic() - at))
            has_changed.set()
        if newest.is_done():
            return


async def send_frames(socket: websockets.ClientConnection, prompt: str, newest: LatestFrame, sent: dict) -> None:
    """The prompt, then each frame that is the newest while there is room for it."""
    with contextlib.suppress(websockets.ConnectionClosed):
        await socket.send(prompt)
        last = newest.drawn
        for on_this_connection in itertools.count(1):
            while newest.number <= last and not newest.is_done():
                newest.changed.clear()
                await newest.changed.wait()
            if newest.is_done():
                break
            last, file = newest.number, newest.file
            sent[on_this_connection] = last, time.monotonic()
            await socket.send(file)
        await socket.close()


def check_message_size(name: str, byte_count: int) -> None:
    if byte_count > MAX_MESSAGE_BYTES:
        raise RequestError(
            f"{name} has {byte_count} bytes; the server takes at most {MAX_MESSAGE_BYTES}: make it smaller.", 413
        )


def refusal_error(error: websockets.InvalidStatus) -> RequestError:
    """With the server's own words."""
    response = error.response
    try:
        message = json.loads(response.body or b"")["error"]
    except (ValueError, KeyError, TypeError):
        message = (
            f"The server answers {response.status_code} {response.reason_phrase}: it has no live pictures for this client."
        )
    return RequestError(message, response.status_code)


def encode_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
