"""What uvicorn, under Ray's proxy, does by itself, before any application is asked."""

import http
import uuid

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from contract.disconnect import PROBE, PROBE_INTERVAL_S
from contract.request_id import HEADER

from .answers import error

CUT_SHORT = "vega_body_is_cut_short"  # in the scope's state


class Protocol(HttpToolsProtocol):
    """What isn't HTTP is answered in JSON, and who has closed its half is answered, too.

    A request for a websocket is a request like others, as there are none.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None

    def send_400_response(self, msg: str) -> None:
        id = uuid.uuid4().hex
        status, headers, body = error(400, msg, id)
        headers |= {HEADER: id, "Content-Length": str(len(body)), "Connection": "close"}
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"{head}\r\n".encode() + body)
        self.transport.close()

    def eof_received(self) -> bool | None:
        """Whether the connection stays open for the answer. TLS has no halves, and HTTP/1.0 nothing to ask with."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.scheme == "https" or cycle.scope["http_version"] == "1.0":
            return None
        if cycle.more_body:
            cycle.scope["state"][CUT_SHORT] = True
            cycle.more_body = False
            cycle.message_event.set()
        cycle.keep_alive = False
        self.loop.call_later(PROBE_INTERVAL_S, self.look_whether_it_is_there)
        return True

    def look_whether_it_is_there(self) -> None:
        """Who has closed both halves looks alike, until it is sent something, and resets the connection."""
        if not self.transport.is_closing() and not self.cycle.response_started:
            self.transport.write(PROBE)
            self.loop.call_later(PROBE_INTERVAL_S, self.look_whether_it_is_there)


def install() -> None:
    """For servers that this process starts from now on; Ray leaves the choice of a protocol to uvicorn."""
    auto.AutoHTTPProtocol = Protocol
