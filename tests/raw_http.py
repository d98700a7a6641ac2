"""HTTP as bytes: requests that no library would send, and answers as they come."""

import gzip
import json
import re
import socket

import httpx
from api_calls import PROMPT, RT

from vega_client.transport import response_error

FIELDS = {"prompt": PROMPT, "seed": 5, "img_width": 64, "img_height": 64}
BODY = json.dumps(FIELDS).encode()
PACKED = gzip.compress(BODY)
GZIP, CHUNKED = "Content-Encoding: gzip", "Transfer-Encoding: chunked"
CLOSE = "Connection: close"
MIB = 2**20


def request(*headers, body=BODY, method="POST", path=f"/v1/{RT}", version="1.1", length=None, host=True) -> bytes:
    """As it is sent; no Content-Length where a header is about that."""
    lines = [f"{method} {path} HTTP/{version}", *(["Host: 127.0.0.1"] if host else []), *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body; without the answers that come before the answer."""
    answer = re.sub(rb"\A(HTTP/1.1 100 Continue\r\n\r\n)+", b"", answer)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {line.split(": ")[0].lower(): line.partition(": ")[2] for line in rest}, body


def everything(connected: socket.socket) -> bytes:
    return b"".join(iter(lambda: connected.recv(2**16), b""))


def sent(server, *data: bytes, half_closed=False) -> tuple[int, dict[str, str], bytes]:
    """The answer on a connection of its own, which must end with it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        for piece in data:
            connected.sendall(piece)
        if half_closed:
            connected.shutdown(socket.SHUT_WR)
        return parts(everything(connected))


def checked(status: int, headers: dict[str, str], body: bytes) -> str:
    """What an error says: in the documented shape, with the id of its header, as vega_client understands it."""
    assert headers["content-type"].startswith("application/json")
    said = json.loads(body)
    assert said["id"] == headers["x-request-id"]
    assert "\n" not in said["error"]
    assert said["error"][0].isupper() or "field" in said
    found = response_error(httpx.Response(status, headers=headers, content=body), "/v1/segmind-vega-rt-v1")
    assert (str(found), found.status) == (said["error"], status)
    return said["error"]
