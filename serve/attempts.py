"""One request that may be sent to the application more than once: its body, and what each attempt answers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from api.request_id import HEADER

from .uvicorn_protocol import CUT_SHORT


class Body:
    """A request's body, kept as it comes, so that every attempt reads it from its beginning."""

    def __init__(self, scope: Scope, receive: Receive, most: int):
        self.state, self.receive, self.left = scope["state"], receive, most  # left: bytes that may still come
        self.kept: list[Message] = []
        self.is_too_large = self.is_cut_short = self.client_is_gone = False

    def from_its_beginning(self) -> Receive:
        read = 0

        async def receive() -> Message:
            nonlocal read
            if read == len(self.kept):
                self.kept.append(await self.next())
            read += 1
            return self.kept[read - 1]

        return receive

    async def next(self) -> Message:
        """What ends the attempt, too, where the body can't be taken: Ray cancels it as if the client had gone."""
        message = await self.receive()
        self.client_is_gone = message["type"] == "http.disconnect"
        self.left -= len(message.get("body", b""))
        self.is_too_large, self.is_cut_short = self.left < 0, CUT_SHORT in self.state
        return {"type": "http.disconnect"} if self.is_too_large or self.is_cut_short else message


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
