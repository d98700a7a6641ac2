"""How uvicorn, under Ray's proxy, answers by itself, before any application is asked."""

import http
import uuid

from uvicorn.protocols.http import auto

from api.request_id import HEADER

from .answers import error


class Protocol(auto.AutoHTTPProtocol):
    """What isn't HTTP is answered in JSON, too; a request for a websocket is a request like others, as there are none."""

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


def install() -> None:
    """For servers that this process starts from now on; Ray leaves the choice of a protocol to uvicorn."""
    auto.AutoHTTPProtocol = Protocol
