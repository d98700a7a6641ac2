"""uvicorn's HTTP protocol under Ray's proxy, with JSON errors and with support for half-closed connections."""

import http
import uuid

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from contract.disconnect import PROBE_INTERVAL_SECONDS, PROBE_RESPONSE
from contract.request_id import REQUEST_ID_HEADER

from .responses import error_response

TRUNCATED_KEY = "vega_body_truncated"  # key in the scope's state: the client half-closed before the end of the body


class Protocol(HttpToolsProtocol):
    """What isn't HTTP is answered in JSON, and a client that has closed only its sending half is answered.

    There are no websockets: an upgrade request is a request like any other.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ws_protocol_class = None

    def send_400_response(self, msg: str) -> None:
        id = uuid.uuid4().hex
        status, headers, body = error_response(400, msg, id)
        headers |= {REQUEST_ID_HEADER: id, "Content-Length": str(len(body)), "Connection": "close"}
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"{head}\r\n".encode() + body)
        self.transport.close()

    def eof_received(self) -> bool | None:
        """True keeps the connection open for the response (asyncio.Protocol).

        TLS has no half-close, and HTTP/1.0 no 100 Continue to probe the client with.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.scheme == "https" or cycle.scope["http_version"] == "1.0":
            return None
        if cycle.more_body:
            cycle.scope["state"][TRUNCATED_KEY] = True
            cycle.more_body = False
            cycle.message_event.set()
        cycle.keep_alive = False
        self.loop.call_later(PROBE_INTERVAL_SECONDS, self.probe_client)
        return True

    def probe_client(self) -> None:
        """Sends 100 Continue: a client that has closed both halves looks the same until it resets the connection."""
        if not self.transport.is_closing() and not self.cycle.response_started:
            self.transport.write(PROBE_RESPONSE)
            self.loop.call_later(PROBE_INTERVAL_SECONDS, self.probe_client)


def install() -> None:
    """For uvicorn servers that this process starts from now on: Ray leaves the choice of the protocol to uvicorn."""
    auto.AutoHTTPProtocol = Protocol
