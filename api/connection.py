"""The host's connections, as far as aiohttp answers under /v1 itself: what it can't read, and who half-closes."""

import logging
import re

import aiohttp
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.streams import StreamReader

from ..contract.disconnect import LOOKS_AGAIN, STILL_HERE
from ..contract.request_id import HEADER, request_id
from . import middleware as answers

# aiohttp has no public way to these, and another version may mean other things by them: there, and where one is missing,
# the host's connections stay as they are.
KNOWN = "3.14"
PRIVATE = {web.RequestHandler: ("_messages", "_parser", "_upgraded", "_loop", "_waiter")}
PRIVATE |= {StreamReader: ("total_compressed_bytes",), web.Application: ("_make_handler",)}
HEAD = 2**14  # bytes of a request's beginning that are looked at
TARGET = re.compile(rb"\s*[^\s]+ +(?:https?://[^/\s]*)?(?P<path>/[^\s?#]*)", re.IGNORECASE)
DRAWS = re.compile(r"(/api)?/v[12]/segmind-[^/]*")  # whose bodies we unpack; another pack's route gets them from aiohttp
PACKED = re.compile(rb"\ncontent-encoding *:", re.IGNORECASE)
OWN_ID = re.compile(rb"\n%s *: *(?P<id>[^\r\n]*)" % HEADER.encode(), re.IGNORECASE)


def begins(head: bytes, paths: re.Pattern) -> bool:
    """Whether a request that begins so is for one of the paths."""
    target = TARGET.match(head)
    return bool(target and paths.fullmatch(target["path"].decode("latin-1")))


class Connection(web.RequestHandler):
    """One of the host's connections; it treats requests of other paths than ours as aiohttp does."""

    __slots__ = ("head", "fed", "length", "body", "ours", "broken", "plain", "as_it_came", "half_closed", "asked")

    def __init__(self, manager: web.Server, **settings):
        super().__init__(manager, **{**settings, "auto_decompress": False})
        self.as_it_came = self._parser  # leaves bodies packed, so that one that is cut short is found out
        super().__init__(manager, **settings)
        self.plain = self._parser
        self.head = b""  # of the last request
        self.fed, self.length = 0, 0  # its bytes until now, and in all (-1: not known)
        self.body: StreamReader | None = None  # its body; None until the head is complete
        self.ours = self.broken = False  # what the last request is whose head is complete, or can't be read
        self.half_closed: float | None = None  # when, by the event loop's clock
        self.asked = 0.0  # when the client was last sent something to find out whether it is there

    def data_received(self, data: bytes) -> None:
        """Without data aiohttp reads on in what it has kept."""
        if self._upgraded:
            self.length = -1  # what comes now may be kept for later
            return super().data_received(data)
        if self.broken and self.ours:
            return None  # it is answered, and closed
        if data and not self.look_at(data):
            return self.force_close() if self.is_idle() else self.close()
        before = len(self._messages)
        super().data_received(data)
        if came := len(self._messages) - before:
            self.look_at_last(came)
        return None

    def look_at(self, data: bytes) -> bool:
        """Whether a parser may read it."""
        if self.body is not None and self.body.is_eof():
            self.head, self.body = b"", None
        if self.body is None:
            if not self.head and not self.choose_parser(data):
                return False
            self.head = (self.head + data)[:HEAD]
        self.fed += len(data)
        return True

    def choose_parser(self, data: bytes) -> bool:
        """For the request that begins with this data; False if none may read it."""
        between = self.fed == self.length and not self._messages  # else the last parser may have a part of it already
        self.fed, self.length = 0, -1
        if not between:
            return self._parser is self.plain
        head = data.partition(b"\r\n\r\n")[0][:HEAD]
        self._parser = self.as_it_came if begins(head, DRAWS) and PACKED.search(head) else self.plain
        return True

    def look_at_last(self, came: int) -> None:
        """At the last of the requests that came together."""
        (message, body), before = self._messages[-1], self.body
        self.broken = not isinstance(message, RawRequestMessage)
        if not self.broken:
            self.ours = answers.is_our_path(message.url.path_safe)
            end = self.head.find(b"\r\n\r\n")
            if came == 1 and before is None and not message.chunked and end > 0:
                self.length = end + 4 + int(message.headers.get("Content-Length", 0))
        else:
            self.ours = begins(self.head, answers.OURS)
            if self.ours and before is not None and not before.is_eof():
                before.set_exception(web.RequestPayloadError("broken"))  # nothing else tells who reads it
        self.body = body

    def is_idle(self) -> bool:
        """Whether every request is answered, so that aiohttp waits for the next."""
        return self._waiter is not None and not self._messages

    def eof_received(self) -> bool | None:
        """Whether the connection stays open for the answer: the client has sent all that it will send."""
        if self.is_idle() or not self.ours or self.ssl_context:  # TLS has no half-closed connections
            return super().eof_received()
        if self.body is not None and not self.body.is_eof():
            self.body.set_exception(web.RequestPayloadError("cut short"))
        self.half_closed = self.asked = self._loop.time()
        self.close()  # after the answer
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.plain = self.as_it_came = self.body = None  # each refers to this connection, and would keep it in memory

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
        unread = status < 500  # and the request says nothing of what came
        if not (self.ours if unread else answers.is_ours(request)):
            return response
        if unread and (found := OWN_ID.search(self.head)):
            request[answers.ID] = request_id({HEADER: found["id"].decode("latin-1")})
        id = answers.id_of(request)
        said = self.unreadable(exc) if unread else f"The server failed; its log says why under {id}."
        response = web.json_response({"error": said}, status=415 if isinstance(exc, ContentEncodingError) else status)
        response.force_close()
        logging.warning("Vega API: request %s: %s, %s", id, response.status, type(exc).__name__)
        return answers.with_id(response, id)

    def unreadable(self, error: BaseException | None) -> str:
        if isinstance(error, LineTooLong):
            return f"The request's address or one of its headers is longer than {self.max_field_size} bytes."
        if isinstance(error, ContentEncodingError):
            return "The body's Content-Encoding is not understood: send gzip, deflate or a plain body."
        why = getattr(error, "message", "").strip().partition("\n")[0][:200].rstrip(":. ")
        return f"The request is not HTTP/1.1 as it must be: {why or type(error).__name__}."

    async def finish_response(self, request, resp, start_time):
        if isinstance(resp, web.StreamResponse) and answers.is_ours(request):
            answers.with_id(resp, answers.id_of(request))
            more_came = self.fed != self.length  # which isn't to be read so
            if self._parser is not self.as_it_came:  # aiohttp ends the connection where what is left doesn't unpack
                more_came = resp.status >= 400 and request.body_exists and "Content-Encoding" in request.headers
            if self.half_closed is not None or more_came:
                resp.force_close()
        return await super().finish_response(request, resp, start_time)


class Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        try:
            return Connection(self, loop=self._loop, **self._kwargs)
        except TypeError:  # an option that aiohttp doesn't know, which it then passes over itself
            return super().__call__()


def install(app: web.Application) -> None:
    """Before the host's server starts: its connections are ours, where aiohttp is as we know it."""
    missing = [name for owner, names in PRIVATE.items() for name in names if not hasattr(owner, name)]
    if missing or not aiohttp.__version__.startswith(f"{KNOWN}."):
        logging.warning(
            "Vega API: aiohttp is %s, not %s: what it refuses before /v1 is not in JSON.", aiohttp.__version__, KNOWN
        )
        return
    make = app._make_handler

    def make_handler(**settings) -> web.Server:
        server = make(**settings)
        if type(server) is web.Server:  # else another pack's, of which nothing is known
            server.__class__ = Server
        return server

    app._make_handler = make_handler


def has_left(request: web.Request) -> bool:
    if isinstance(request.protocol, Connection):
        return request.protocol.has_left(request)
    return request.transport is None or request.transport.is_closing()
