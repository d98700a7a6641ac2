"""One request that may be sent to the application more than once: its body, and what each attempt answers."""

import asyncio
import contextlib
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from contract.body_limits import CHUNK_BYTES, SMALL_BODY_BYTES, BodyLimits
from contract.errors import ApiError
from contract.request_id import HEADER

from .uvicorn_protocol import CUT_SHORT


class Body:
    """A request's body, kept as it comes, so that every attempt reads it from its beginning.

    It is read as by one server: a large one in its turn, and none that stands still. `ended` gives its turn back.
    """

    def __init__(self, scope: Scope, receive: Receive, bodies: BodyLimits):
        self.state, self.receive, self.bodies = scope["state"], receive, bodies
        self.kept: list[Message] = []
        self.came = 0  # bytes
        self.part = SMALL_BODY_BYTES  # bytes that must have come
        self.seconds = bodies.timeout_s  # that they may still take
        self.is_whole = self.client_is_gone = False
        self.refused: ApiError | None = None
        self.turn = contextlib.AsyncExitStack()

    def from_its_beginning(self) -> Receive:
        read = 0

        async def receive() -> Message:
            nonlocal read
            if read == len(self.kept):
                self.kept.append(await self.next())
            read += 1
            return self.kept[read - 1]

        return receive

    async def ended(self) -> None:
        await self.turn.aclose()

    async def next(self) -> Message:
        """What ends the attempt, too, where the body can't be taken: Ray cancels it as if the client had gone."""
        try:
            if self.came >= self.part and not self.is_whole:
                await self.begin_part()
            message = await self.in_time()
            self.client_is_gone = message["type"] == "http.disconnect"
            self.came += len(message.get("body", b""))
            self.is_whole = not message.get("more_body")
            if self.came > self.bodies.max_bytes:
                raise self.bodies.too_large()
            if CUT_SHORT in self.state:
                raise ApiError(400, "The body is cut short.", close=True)
        except ApiError as refused:
            self.refused = refused
            return {"type": "http.disconnect"}
        if self.is_whole:
            await self.ended()
        return message

    async def begin_part(self) -> None:
        if self.part == SMALL_BODY_BYTES:
            await self.turn.enter_async_context(self.bodies.large_body())
        self.part, self.seconds = self.came + CHUNK_BYTES, self.bodies.timeout_s

    async def in_time(self) -> Message:
        """What comes next. After the whole body only the client's leaving does."""
        if self.is_whole:
            return await self.receive()
        began = time.monotonic()
        try:
            return await asyncio.wait_for(self.receive(), self.seconds)
        except asyncio.TimeoutError:
            raise self.bodies.timed_out(SMALL_BODY_BYTES if self.part == SMALL_BODY_BYTES else CHUNK_BYTES) from None
        finally:
            self.seconds -= time.monotonic() - began


class Attempt:
    """Passes an answer on to the client under the request's id, but for an error that isn't the documented JSON."""

    def __init__(self, id: str, send: Send):
        self.id, self.send = id, send
        self.start: Message | None = None
        self.is_passed_on = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message  # nothing is sent before there is something of the body, too
        elif self.is_documented:
            if not self.is_passed_on:
                self.is_passed_on = True
                headers = MutableHeaders(scope=self.start)
                headers[HEADER] = self.id  # in the place of Ray's own
                await self.send(self.start)
            await self.send(message)

    @property
    def status(self) -> int | None:
        """None where the process that should have answered died."""
        return self.start and self.start["status"]

    @property
    def is_documented(self) -> bool:
        content_type = Headers(raw=self.start["headers"]).get("content-type", "")
        return self.status < 400 or content_type.startswith("application/json")
