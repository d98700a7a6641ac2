"""Connections to the HTTP API: kept, pipelined, split, half closed or broken off, and forgotten when they end."""

import asyncio
import gc
import json
import re
import socket
import time

import aiohttp
from aiohttp import web
from api_app import listening, send_request
from api_calls import BASE, post, queue, wait_for
from raw_http import BODY, CHUNKED, CLOSE, FIELDS, GZIP, PACKED, checked, chunk, everything, parts, request, sent
from vega_pack.api import connection


def test_a_kept_connection_goes_on_or_is_closed_as_it_says(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:

        def send(data: bytes) -> tuple[int, dict[str, str], bytes]:
            connected.sendall(data)
            answer = b""
            while len(answer.partition(b"\r\n\r\n")[2]) < int((re.search(rb"Length: (\d+)", answer) or [0, 1])[1]):
                more = connected.recv(2**16)
                assert more, answer
                answer += more
            return parts(answer)

        assert send(request(method="GET", path="/v1/openapi.json", body=b""))[0] == 200
        assert send(request(body=b"[]"))[0] == 400
        assert send(request(GZIP, body=PACKED))[0] == 200
        assert send(request())[0] == 200
        assert send(request(method="GET", path="/queue", body=b""))[0] == 200
        status, headers, body = send(request(GZIP, body=b"nothing packed"))
        assert (status, headers["connection"]) == (400, "close")
        checked(status, headers, body)
        assert connected.recv(1) == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        send(request(method="GET", path="/queue", body=b""))
        status, headers, body = send(request("Content-Encoding: br"))
        assert "'br' is not understood" in checked(status, headers, body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        send(request(method="GET", path="/queue", body=b""))
        send(request())
        status, headers, body = send(request(GZIP, body=PACKED[:-4]))
        assert "cut short" in checked(status, headers, body)


def test_a_refusal_before_a_broken_body_ends_the_connection(server):
    """Who is refused before a broken body is read is told that the connection ends."""
    status, headers, body = sent(server, request(GZIP, path="/v1/x", body=b"nothing packed"))
    assert (status, headers["connection"]) == (404, "close")
    checked(status, headers, body)


def test_pipelined_and_split_requests_are_read_right(server):
    """Requests that come together or in pieces are each answered."""
    expected = post(server, **FIELDS).content
    look = request(method="GET", path="/queue", body=b"")
    packed, brotli = request(GZIP, body=PACKED), request(CLOSE, "Content-Encoding: br")
    for pieces in (
        [look + request() + look[:9], look[9:] + packed],  # these are unpacked by aiohttp, which sees them begin
        [look + packed[:30], packed[30:]],
        [look[:5], look[5:], b"\r\n" + packed],
        [packed[:3], packed[3:]],
        [look, packed[:-9], packed[-9:]],
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
            for piece in pieces:
                connected.sendall(piece)
                time.sleep(0.05)  # so that it is read by itself
            connected.shutdown(socket.SHUT_WR)
            assert everything(connected).endswith(b"\r\n\r\n" + expected), pieces
    status, headers, body = sent(server, brotli[:3], brotli[3:])
    assert status == 415
    assert "not understood" in checked(status, headers, body)


def test_who_half_closes_gets_the_answer(server):
    expected = post(server, **FIELDS).content
    for version in ("1.1", "1.0"):
        status, headers, body = sent(server, request(version=version), half_closed=True)
        assert (status, body) == (200, expected)
    status, _, body = sent(server, request(GZIP, body=PACKED), half_closed=True)
    assert (status, body) == (200, expected)
    for wrong, said in {
        request(method="GET", body=b""): "GET is not",
        request(body=BODY[:-5], length=len(BODY)): "cut short",
        request(CHUNKED, body=chunk(BODY)): "cut short",
        request("X-A: " + "a" * 9000): "8190",
    }.items():
        assert said in checked(*sent(server, wrong, half_closed=True))
    long = json.dumps({**FIELDS, "num_inference_steps": 40, "img_width": 128, "img_height": 128}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        connected.sendall(request(path=f"/v1/{BASE}", body=long))
        wait_for(lambda: queue(server)[0])
        connected.shutdown(socket.SHUT_WR)
        assert parts(everything(connected))[0] == 200


def test_who_half_closes_after_all_answers_is_not_kept(server):
    """Of more than 32 requests that come together aiohttp reads the rest later, from what it has kept."""
    count = 70
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        connected.sendall(request(method="GET", path="/v1/x", body=b"") * count)
        answers = b""
        while answers.count(b"There is no /v1/x") < count:
            answers += connected.recv(2**16)
        connected.shutdown(socket.SHUT_WR)
        everything(connected)  # ends


def test_chunks_that_break_off_are_answered_and_not_waited_for(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        connected.sendall(request(CHUNKED, "Expect: 100-continue", body=b""))
        assert connected.recv(2**10).startswith(b"HTTP/1.1 100 ")  # somebody reads the body now
        connected.sendall(chunk(b"{") + b"ZZZ\r\n")
        assert "in chunks" in checked(*parts(everything(connected)))


def made_by(app: web.Application) -> type:
    """Of what the application's connections come from."""

    async def go():
        return type(app._make_handler())

    return asyncio.run(go())


def test_aiohttp_has_the_private_names():
    """The private names of aiohttp that connections are made with are there."""
    assert [name for owner, names in connection.PRIVATE_NAMES.items() for name in names if not hasattr(owner, name)] == []
    app = web.Application()
    connection.install(app)
    assert made_by(app) is connection.Server


def test_another_aiohttp_keeps_the_hosts_connections(monkeypatch, caplog):
    """With an aiohttp of another version connections stay the host's."""
    monkeypatch.setattr(aiohttp, "__version__", "3.15.0")
    app = web.Application()
    connection.install(app)
    assert made_by(app) is web.Server
    assert "aiohttp is 3.15.0, not 3.14" in caplog.text


def test_a_connection_is_forgotten_when_it_ends():
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def go():
        async with listening(handler) as port:
            for data in (request(), request(GZIP, body=PACKED)):
                await send_request(port, data)
            deadline = asyncio.get_running_loop().time() + 5
            while count_connections() and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
            assert count_connections() == 0

    def count_connections() -> int:
        return sum(isinstance(found, connection.Connection) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(go())
    finally:
        gc.enable()
