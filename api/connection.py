"""The host's connections, as far as aiohttp answers under /v1 itself: what it can't read, and who half-closes."""

import logging
import re

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.streams import StreamReader

from . import answers
from .request_id import HEADER, request_id

# aiohttp has no public way to these; where one is missing the host's connections stay as they are.
PRIVATE = {web.RequestHandler: ("_messages", "_parser", "_upgraded", "_loop")}
PRIVATE |= {StreamReader: ("total_compressed_bytes",), web.Application: ("_make_handler",)}
HEAD = 2**14  # bytes of a request's beginning that are looked at
TARGET = re.compile(rb"\s*[^\s]+ +(?:https?://[^/\s]*)?(?P<path>/[^\s?#]*)", re.IGNORECASE)
PACKED = re.compile(rb"\ncontent-encoding *:", re.IGNORECASE)
OWN_ID = re.compile(rb"\n%s *: *(?P<id>[^\r\n]*)" % HEADER.encode(), re.IGNORECASE)
LOOKS_AGAIN = 0.3  # seconds between two tries to find out whether who has half-closed is still there
STILL_HERE = b"HTTP/1.1 100 Continue\r\n\r\n"  # which a client may always get, and passes over


def is_ours(head: bytes) -> bool:
    target = TARGET.match(head)
    return bool(target and answers.OURS.fullmatch(target["path"].decode("latin-1")))


class Connection(web.RequestHandler):
    """One of the host's connections; it treats requests of other paths than ours as aiohttp does."""

    __slots__ = ("head", "fed", "length", "body", "unanswered", "broken", "plain", "as_it_came", "half_closed", "asked")

    def __init__(self, manager: web.Server, **settings):
        super().__init__(manager, **{**settings, "auto_decompress": False})
        self.as_it_came = self._parser  # leaves bodies packed, so that one that is cut short is found out
        super().__init__(manager, **settings)
        self.plain = self._parser
        self.head = b""  # of the last request
        self.fed, self.length = 0, 0  # its bytes until now, and in all (-1: not known)
        self.body: StreamReader | None = None  # its body; None until the head is complete
        self.unanswered, self.broken = 0, False
        self.half_closed: float | None = None  # when, by the event loop's clock
        self.asked = 0.0  # when the client was last sent something to find out whether it is there

    def is_ours(self) -> bool:
        return is_ours(self.head)

    def data_received(self, data: bytes) -> None:
        if self._upgraded or not data:
            return super().data_received(data)
        if self.broken and self.is_ours():
            return None  # it is answered, and closed
        if self.body is not None and self.body.is_eof():
            self.head, self.body = b"", None
        if self.body is None:
            if not self.head and not self.choose_parser(data):
                return self.close()
            self.head = (self.head + data)[:HEAD]
        self.fed += len(data)
        before = len(self._messages)
        super().data_received(data)
        came = len(self._messages) - before
        if not came:
            return None
        self.unanswered += came
        message, body = self._messages[-1]
        self.broken = not isinstance(message, RawRequestMessage)
        if self.broken and self.body is not None and not self.body.is_eof():
            self.body.set_exception(web.RequestPayloadError("broken"))  # nothing else tells who reads it
        elif came == 1 and not self.broken and not message.chunked and (end := self.head.find(b"\r\n\r\n")) > 0:
            self.length = end + 4 + int(message.headers.get("Content-Length", 0))
        self.body = body
        return None

    def choose_parser(self, data: bytes) -> bool:
        """For the request that begins with this data; False if none may read it."""
        between = self.fed == self.length and not self._messages  # else the last parser may have a part of it already
        self.fed, self.length = 0, -1
        if not between:
            return self._parser is self.plain
        head = data.partition(b"\r\n\r\n")[0][:HEAD]
        self._parser = self.as_it_came if is_ours(head) and PACKED.search(head) else self.plain
        return True

    def eof_received(self) -> bool | None:
        """Whether the connection stays open for the answer: the client has sent all that it will send."""
        if not self.unanswered or not self.is_ours() or self.ssl_context:  # TLS has no half-closed connections
            return super().eof_received()
        if self.body is not None and not self.body.is_eof():
            self.body.set_exception(web.RequestPayloadError("cut short"))
        self.half_closed = self.asked = self._loop.time()
        self.close()  # after the answer
        return True

    def has_left(self, request: web.Request) -> bool:
        """Whether nobody waits for the answer. Who closes and who half-closes look alike until they are sent something."""
        if self.transport is None or self.transport.is_closing():
            return True
        if self.half_closed is None or self._loop.time() - self.asked < LOOKS_AGAIN:
            return False
        if request.version < (1, 1):
            return True  # HTTP/1.0 has no answers before the answer
        self.asked = self._loop.time()
        self.transport.write(STILL_HERE)  # who has left resets the connection, which the next one finds out
        return self.transport.is_closing()

    def handle_error(self, request, status=500, exc=None, message=None) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        if not self.is_ours():
            return response
        if found := OWN_ID.search(self.head):
            request[answers.ID] = request_id({HEADER: found["id"].decode("latin-1")})
        id = answers.id_of(request)
        said = self.unreadable(exc) if status < 500 else f"The server failed; its log says why under {id}."
        response = web.json_response({"error": said}, status=415 if isinstance(exc, ContentEncodingError) else status)
        response.force_close()
        logging.warning("Vega API: request %s: %s, %s", id, response.status, type(exc).__name__)
        return response

    def unreadable(self, error: BaseException | None) -> str:
        if isinstance(error, LineTooLong):
            return f"The request's address or one of its headers is longer than {self.max_field_size} bytes."
        if isinstance(error, ContentEncodingError):
            return "The body's Content-Encoding is not understood: send gzip, deflate or a plain body."
        why = getattr(error, "message", "").strip().partition("\n")[0][:200].rstrip(":. ")
        return f"The request is not HTTP/1.1 as it must be: {why or type(error).__name__}."

    async def finish_response(self, request, resp, start_time):
        try:
            if isinstance(resp, web.StreamResponse) and self.is_ours():
                answers.with_id(resp, answers.id_of(request))
                packed = (
                    self._parser is self.as_it_came and self.fed != self.length
                )  # more has come, which isn't to be read so
                if packed or self.half_closed is not None:
                    resp.force_close()
            return await super().finish_response(request, resp, start_time)
        finally:
            self.unanswered -= 1


class Server(web.Server):
    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)


def install(app: web.Application) -> None:
    """Before the host's server starts: its connections are ours, where aiohttp is as we know it."""
    missing = [name for owner, names in PRIVATE.items() for name in names if not hasattr(owner, name)]
    if missing:
        logging.warning("Vega API: aiohttp has no %s: what it refuses before /v1 is not in JSON.", ", ".join(missing))
        return
    make = app._make_handler

    def make_handler(**settings) -> web.Server:
        server = make(**settings)
        server.__class__ = Server
        return server

    app._make_handler = make_handler


def has_left(request: web.Request) -> bool:
    if isinstance(request.protocol, Connection):
        return request.protocol.has_left(request)
    return request.transport is None or request.transport.is_closing()
