"""Bodies of requests to the HTTP API: packed, cut short, too large or standing still; none holds much or anybody up."""

import asyncio
import gzip
import json
import socket
import time
import zlib
from contextlib import ExitStack

import psutil
from aiohttp import web
from api_app import listening, send_request
from api_calls import post
from raw_http import BODY, CLOSE, FIELDS, GZIP, PACKED, checked, request, sent
from vega_pack.api.request_body import read_body
from vega_pack.api.responses import error_response
from vega_pack.contract import body_limits
from vega_pack.contract.body_limits import MAX_LARGE_BODIES, BodyLimits
from vega_pack.contract.errors import ApiError

MIB = 2**20


def test_packed_bodies_are_what_they_pack_and_must_be_whole(server):
    expected = post(server, **FIELDS).content
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bare = bare.compress(BODY) + bare.flush()
    whole = {"gzip": PACKED, "x-gzip": PACKED, "GZIP": gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])}
    for encoding, packed in [*whole.items(), ("deflate", zlib.compress(BODY)), ("Deflate", bare), ("identity", BODY)]:
        status, _, body = sent(server, request(CLOSE, f"Content-Encoding: {encoding}", body=packed))
        assert (status, body) == (200, expected), encoding
    for cut in range(1, len(PACKED)):
        status, headers, body = sent(server, request(GZIP, body=PACKED[:-cut]))
        assert (status, headers["connection"]) == (400, "close"), cut
        assert "cut short" in checked(status, headers, body)


def test_many_unfinished_bodies_hold_little_and_hold_nobody_up(server):
    """Each client sends what the server takes of 8 MiB and stops one byte before the end."""
    memory = psutil.Process(server.process.pid).memory_info
    body = json.dumps({**FIELDS, "image": "A" * 8 * MIB}).encode()
    post(server, **FIELDS)
    before = memory().rss
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(40)]
        left = {client: memoryview(request(body=body))[:-1] for client in clients}
        for client in clients:
            client.setblocking(False)

        def were_read() -> bool:
            return sum(not rest for rest in left.values()) >= MAX_LARGE_BODIES

        quiet, end = time.monotonic() + 0.5, time.monotonic() + 60
        while time.monotonic() < quiet or not were_read():  # since somebody could send
            assert time.monotonic() < end
            for client in clients:
                try:
                    count = client.send(left[client]) if left[client] else 0
                except BlockingIOError:
                    count = 0
                if count:
                    left[client], quiet = left[client][count:], time.monotonic() + 0.5
        assert memory().rss - before < 100 * MIB
        assert post(server, **FIELDS).status_code == 200
    assert post(server, prompt="a", image="A" * MIB).status_code == 400  # their turns are free again


def reading(limits: BodyLimits):
    async def handler(request: web.Request) -> web.Response:
        try:
            async with read_body(request, limits) as body:
                return web.json_response({"length": len(body)})
        except ApiError as error:
            return error_response(error)

    return handler


def test_a_body_that_stands_still_is_told_so_and_leaves_its_turn():
    async def go():
        limits = BodyLimits(8, timeout_s=0.3)
        async with listening(reading(limits)) as port:
            small, large = request(length=9000), request(body=b"a" * MIB, length=2 * MIB)
            found = await asyncio.gather(*(send_request(port, data) for data in [small, large] * (2 * MAX_LARGE_BODIES)))
            for status, headers, body in found:
                assert (status, headers["connection"]) == (408, "close")
                assert "stands still" in checked(status, headers, body)
            assert (await send_request(port, request(CLOSE, body=b"a" * 2 * MIB)))[2] == b'{"length": %d}' % (2 * MIB)

    asyncio.run(go())


def test_large_bodies_have_turns_and_small_ones_need_none(monkeypatch):
    monkeypatch.setattr(body_limits, "LARGE_BODY_WAIT_TIMEOUT_SECONDS", 0.2)  # seconds

    async def go():
        limits = BodyLimits(8, timeout_s=60)
        async with listening(reading(limits)) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_LARGE_BODIES)]
            for _, writer in held:
                writer.write(request(CLOSE, body=b"a" * MIB, length=MIB + 1))
            while not limits.large_bodies.locked():
                await asyncio.sleep(0.01)
            assert (await send_request(port, request(CLOSE)))[0] == 200
            large, packed = request(body=b"a" * MIB, length=MIB + 1), request(GZIP, body=gzip.compress(bytes(MIB)))
            for status, headers, body in await asyncio.gather(send_request(port, large), send_request(port, packed)):
                assert (status, headers["retry-after"]) == (429, "60")
                assert "large bodies" in checked(status, headers, body)
            for reader, writer in held:
                writer.write(b"a")
                assert b'{"length": %d}' % (MIB + 1) in await reader.read()
            assert (await send_request(port, packed))[0] == 200
            status, headers, body = await send_request(port, request(GZIP, body=gzip.compress(bytes(9 * MIB))))
            assert status == 413
            assert "8 MiB" in checked(status, headers, body)

    asyncio.run(go())
