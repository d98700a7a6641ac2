"""Calls of the HTTP API as its clients make them, on whatever has a `url` and a `port`."""

import base64
import io
import json
import socket
import time

import requests
from PIL import Image

RT, BASE = "segmind-vega-rt-v1", "segmind-vega"
PROMPT = "night, desert, full moon"


def post(server, path=RT, headers=None, **body):
    return requests.post(f"{server.url}/v1/{path}", json=body, headers=headers, timeout=300)


def long(server, headers=None, **body):
    """A request that keeps the server busy for seconds."""
    fields = {"prompt": PROMPT, "num_inference_steps": 100, "img_width": 128, "img_height": 128, **body}
    return post(server, BASE, headers, **fields)


def send_and_leave(server, path=BASE, headers=None, **body):
    """A client that hangs up with its request still unanswered."""
    content = json.dumps(body).encode()
    fields = {"Host": f"127.0.0.1:{server.port}", "Content-Length": len(content), **(headers or {})}
    head = "".join([f"POST /v1/{path} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in fields.items()), "\r\n"])
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(head.encode() + content)
    return connection


def raw(server, head: bytes, body: bytes = b"") -> bytes:
    """The answer to what no library would send."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def opened(response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def in_base64(image: Image.Image, format="PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return base64.b64encode(buffer.getvalue()).decode()


def queue(server) -> list[list]:
    """The host's prompts: those running and those waiting."""
    found = server.get("/queue").json()
    return [found["queue_running"], found["queue_pending"]]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
