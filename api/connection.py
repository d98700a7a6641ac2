"""The host's connections where aiohttp itself responds under /v1: to what it can't parse, and to half-closed clients."""

import logging
import re

import aiohttp
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import ContentEncodingError, LineTooLong
from aiohttp.streams import StreamReader

from ..contract.disconnect import PROBE_INTERVAL_SECONDS, PROBE_RESPONSE
from ..contract.request_id import REQUEST_ID_HEADER, request_id
from . import middleware

# These are private, and another version of aiohttp may use them otherwise: there, and where one is missing, the host's
# connections stay as they are.
AIOHTTP_VERSION = "3.14"
PRIVATE_NAMES = {web.RequestHandler: ("_messages", "_parser", "_upgraded", "_loop", "_waiter")}
PRIVATE_NAMES |= {StreamReader: ("total_compressed_bytes",), web.Application: ("_make_handler",)}
MAX_HEAD_BYTES = 2**14  # of a request's head that are kept
REQUEST_TARGET_PATTERN = re.compile(rb"\s*[^\s]+ +(?:https?://[^/\s]*)?(?P<path>/[^\s?#]*)", re.IGNORECASE)
# Paths whose bodies api/request_body.py decompresses; for other packs' routes aiohttp does.
MODEL_PATHS = re.compile(r"(/api)?/v[12]/segmind-[^/]*")
CONTENT_ENCODING_PATTERN = re.compile(rb"\ncontent-encoding *:", re.IGNORECASE)
REQUEST_ID_PATTERN = re.compile(rb"\n%s *: *(?P<id>[^\r\n]*)" % REQUEST_ID_HEADER.encode(), re.IGNORECASE)


def head_matches(head: bytes, paths: re.Pattern) -> bool:
    """Whether the path of a request with this (perhaps incomplete) head matches."""
    target = REQUEST_TARGET_PATTERN.match(head)
    return bool(target and paths.fullmatch(target["path"].decode("latin-1")))


class Connection(web.RequestHandler):
    """One of the host's connections; it treats requests of other paths as aiohttp does."""

    __slots__ = (
        "head",
        "received_bytes",
        "request_bytes",
        "body",
        "is_api",
        "is_broken",
        "parser",
        "raw_parser",
        "half_closed_at",
        "probed_at",
    )

    def __init__(self, manager: web.Server, **settings):
        super().__init__(manager, **{**settings, "auto_decompress": False})
        self.raw_parser = self._parser  # leaves bodies compressed, so that a truncated one is found out
        super().__init__(manager, **settings)
        self.parser = self._parser
        self.head = b""  # of the last request
        self.received_bytes, self.request_bytes = 0, 0  # of the last request until now, and in all (-1: not known)
        self.body: StreamReader | None = None  # of the last request; None until its head is complete
        self.is_api = self.is_broken = False  # the last request whose head is complete, or can't be parsed
        self.half_closed_at: float | None = None  # by the event loop's clock
        self.probed_at = 0.0  # the same

    def data_received(self, data: bytes) -> None:
        """aiohttp calls it without data to parse what it has kept."""
        if self._upgraded:
            self.request_bytes = -1  # what comes now may be kept for later
            return super().data_received(data)
        if self.is_broken and self.is_api:
            return None  # the response is sent, and closes the connection
        if data and not self.track(data):
            return self.force_close() if self.is_idle() else self.close()
        before = len(self._messages)
        super().data_received(data)
        if parsed := len(self._messages) - before:
            self.track_last_message(parsed)
        return None

    def track(self, data: bytes) -> bool:
        """Updates the state of the request that the data belongs to; False where it must not be parsed."""
        if self.body is not None and self.body.is_eof():
            self.head, self.body = b"", None
        if self.body is None:
            if not self.head and not self.choose_parser(data):
                return False
            self.head = (self.head + data)[:MAX_HEAD_BYTES]
        self.received_bytes += len(data)
        return True

    def choose_parser(self, data: bytes) -> bool:
        """For the request that begins with this data; False if neither parser can be used."""
        # Otherwise the previous parser may have a part of this request already.
        is_between_requests = self.received_bytes == self.request_bytes and not self._messages
        self.received_bytes, self.request_bytes = 0, -1
        if not is_between_requests:
            return self._parser is self.parser
        head = data.partition(b"\r\n\r\n")[0][:MAX_HEAD_BYTES]
        is_compressed = head_matches(head, MODEL_PATHS) and CONTENT_ENCODING_PATTERN.search(head)
        self._parser = self.raw_parser if is_compressed else self.parser
        return True

    def track_last_message(self, parsed: int) -> None:
        """parsed: how many messages came together."""
        (message, body), previous_body = self._messages[-1], self.body
        self.is_broken = not isinstance(message, RawRequestMessage)
        if not self.is_broken:
            self.is_api = middleware.is_api_path(message.url.path_safe)
            end = self.head.find(b"\r\n\r\n")
            if parsed == 1 and previous_body is None and not message.chunked and end > 0:
                self.request_bytes = end + 4 + int(message.headers.get("Content-Length", 0))
        else:
            self.is_api = head_matches(self.head, middleware.API_PATHS)
            if self.is_api and previous_body is not None and not previous_body.is_eof():
                previous_body.set_exception(web.RequestPayloadError("broken"))  # aiohttp itself would let its reader wait
        self.body = body

    def is_idle(self) -> bool:
        """Whether every request has its response, so that aiohttp waits for the next."""
        return self._waiter is not None and not self._messages

    def eof_received(self) -> bool | None:
        """Whether the connection stays open for the response: the client has sent all that it will send."""
        if self.is_idle() or not self.is_api or self.ssl_context:  # TLS has no half-closed connections
            return super().eof_received()
        if self.body is not None and not self.body.is_eof():
            self.body.set_exception(web.RequestPayloadError("cut short"))
        self.half_closed_at = self.probed_at = self._loop.time()
        self.close()  # after the response
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.parser = self.raw_parser = self.body = None  # each refers to this connection, and would keep it in memory

    def is_disconnected(self, request: web.Request) -> bool:
        """Probes a half-closed connection, as one that is closed looks the same until something is sent."""
        if self.transport is None or self.transport.is_closing():
            return True
        if self.half_closed_at is None or self._loop.time() - self.probed_at < PROBE_INTERVAL_SECONDS:
            return False
        if request.version < (1, 1):
            return True  # HTTP/1.0 has no interim responses
        self.probed_at = self._loop.time()
        # A client that has closed resets the connection, which the next probe finds out.
        self.transport.write(PROBE_RESPONSE)
        return self.transport.is_closing()

    def handle_error(self, request, status=500, exc=None, message=None) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        is_unparsed = status < 500  # and the request says nothing of what came
        if not (self.is_api if is_unparsed else middleware.is_api_request(request)):
            return response
        if is_unparsed and (found := REQUEST_ID_PATTERN.search(self.head)):
            request[middleware.REQUEST_ID] = request_id({REQUEST_ID_HEADER: found["id"].decode("latin-1")})
        id = middleware.get_request_id(request)
        text = self.parse_error_message(exc) if is_unparsed else f"The server failed; its log says why under {id}."
        response = web.json_response({"error": text}, status=415 if isinstance(exc, ContentEncodingError) else status)
        response.force_close()
        logging.warning("Vega API: request %s: %s, %s", id, response.status, type(exc).__name__)
        return middleware.finalize_response(response, id)

    def parse_error_message(self, error: BaseException | None) -> str:
        if isinstance(error, LineTooLong):
            return f"The request's address or one of its headers is longer than {self.max_field_size} bytes."
        if isinstance(error, ContentEncodingError):
            return "The body's Content-Encoding is not understood: send gzip, deflate or a plain body."
        reason = getattr(error, "message", "").strip().partition("\n")[0][:200].rstrip(":. ")
        return f"The request is not HTTP/1.1 as it must be: {reason or type(error).__name__}."

    async def finish_response(self, request, resp, start_time):
        if isinstance(resp, web.StreamResponse) and middleware.is_api_request(request):
            middleware.finalize_response(resp, middleware.get_request_id(request))
            must_close = self.received_bytes != self.request_bytes  # the rest must not be parsed as a request
            if self._parser is not self.raw_parser:  # aiohttp closes the connection where the rest can't be decompressed
                must_close = resp.status >= 400 and request.body_exists and "Content-Encoding" in request.headers
            if self.half_closed_at is not None or must_close:
                resp.force_close()
        return await super().finish_response(request, resp, start_time)


class Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        try:
            return Connection(self, loop=self._loop, **self._kwargs)
        except TypeError:  # an option that aiohttp doesn't know, which it then ignores itself
            return super().__call__()


def install(app: web.Application) -> None:
    """Makes the app's server create Connections, where aiohttp is of the known version. Call it before the server starts."""
    missing = [name for owner, names in PRIVATE_NAMES.items() for name in names if not hasattr(owner, name)]
    if missing or not aiohttp.__version__.startswith(f"{AIOHTTP_VERSION}."):
        message = "Vega API: aiohttp is %s, not %s: what it refuses before /v1 is not in JSON."
        logging.warning(message, aiohttp.__version__, AIOHTTP_VERSION)
        return
    make = app._make_handler

    def make_handler(**settings) -> web.Server:
        server = make(**settings)
        if type(server) is web.Server:  # not another pack's, of which nothing is known
            server.__class__ = Server
        return server

    app._make_handler = make_handler


def is_disconnected(request: web.Request) -> bool:
    if isinstance(request.protocol, Connection):
        return request.protocol.is_disconnected(request)
    return request.transport is None or request.transport.is_closing()
