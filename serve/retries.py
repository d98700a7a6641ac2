"""What a request needs to be sent to the application more than once: a replayable body, and a check of each response."""

import asyncio
import contextlib
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from contract.body_limits import CHUNK_BYTES, SMALL_BODY_BYTES, BodyLimits
from contract.errors import ApiError
from contract.request_id import REQUEST_ID_HEADER

from .uvicorn_protocol import TRUNCATED_KEY


class ReplayableBody:
    """Keeps a request's body while it is read, so that every attempt reads it from its start.

    The limits are ComfyUI's (contract.body_limits): size, seconds for each part, and how many large bodies are read at a
    time. `close` lets the next large body be read.
    """

    def __init__(self, scope: Scope, receive: Receive, bodies: BodyLimits):
        self.state, self.receive, self.bodies = scope["state"], receive, bodies
        self.messages: list[Message] = []
        self.received_bytes = 0
        # The bytes that must have come within these seconds.
        self.part_end, self.seconds_left = SMALL_BODY_BYTES, bodies.timeout_s
        self.is_complete = self.is_disconnected = False
        self.refused: ApiError | None = None
        self.body_slot = contextlib.AsyncExitStack()

    def replay(self) -> Receive:
        """An ASGI receive that starts with the first message."""
        index = 0

        async def receive() -> Message:
            nonlocal index
            if index == len(self.messages):
                self.messages.append(await self.next_message())
            index += 1
            return self.messages[index - 1]

        return receive

    async def close(self) -> None:
        await self.body_slot.aclose()

    async def next_message(self) -> Message:
        """From the client. A body that is refused reads as http.disconnect, at which Ray cancels the attempt."""
        try:
            if self.received_bytes >= self.part_end and not self.is_complete:
                await self.start_part()
            message = await self.receive_in_time()
            self.is_disconnected = message["type"] == "http.disconnect"
            self.received_bytes += len(message.get("body", b""))
            self.is_complete = not message.get("more_body")
            if self.received_bytes > self.bodies.max_bytes:
                raise self.bodies.too_large_error()
            if TRUNCATED_KEY in self.state:
                raise ApiError(400, "The body is cut short.", close=True)
        except ApiError as refused:
            self.refused = refused
            return {"type": "http.disconnect"}
        if self.is_complete:
            await self.close()
        return message

    async def start_part(self) -> None:
        if self.part_end == SMALL_BODY_BYTES:
            await self.body_slot.enter_async_context(self.bodies.large_body())
        self.part_end, self.seconds_left = self.received_bytes + CHUNK_BYTES, self.bodies.timeout_s

    async def receive_in_time(self) -> Message:
        """After the whole body only a disconnect can come, which has no time limit."""
        if self.is_complete:
            return await self.receive()
        start = time.monotonic()
        try:
            return await asyncio.wait_for(self.receive(), self.seconds_left)
        except asyncio.TimeoutError:
            chunk_bytes = SMALL_BODY_BYTES if self.part_end == SMALL_BODY_BYTES else CHUNK_BYTES
            raise self.bodies.timed_out_error(chunk_bytes) from None
        finally:
            self.seconds_left -= time.monotonic() - start


class RetryableSend:
    """An ASGI send that passes a response on to the client under the request's id, unless it is an error without JSON."""

    def __init__(self, id: str, send: Send):
        self.id, self.send = id, send
        self.start: Message | None = None
        self.is_sent = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message  # held back until the body starts: a process that dies before that can be retried
        elif self.is_api_response:
            if not self.is_sent:
                self.is_sent = True
                headers = MutableHeaders(scope=self.start)
                headers[REQUEST_ID_HEADER] = self.id  # replaces Ray's
                await self.send(self.start)
            await self.send(message)

    @property
    def status(self) -> int | None:
        """None where the process died before it responded."""
        return self.start and self.start["status"]

    @property
    def is_api_response(self) -> bool:
        content_type = Headers(raw=self.start["headers"]).get("content-type", "")
        return self.status < 400 or content_type.startswith("application/json")
