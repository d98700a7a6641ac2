"""Errors of the HTTP API over real sockets: each is JSON with the request's id, whoever refuses it, and none holds much."""

import asyncio
import gc
import gzip
import json
import re
import socket
import time
import zlib
from contextlib import ExitStack, asynccontextmanager

import aiohttp
import httpx
import psutil
import pytest
import requests
from aiohttp import web
from api_calls import BASE, PROMPT, RT, post, queue, wait_for
from vega_pack.api import connection, middleware
from vega_pack.api.request_body import read_body
from vega_pack.api.responses import error_response
from vega_pack.contract import body_limits
from vega_pack.contract.body_limits import MAX_LARGE_BODIES, BodyLimits
from vega_pack.contract.errors import ApiError

from vega_client.transport import response_error

FIELDS = {"prompt": PROMPT, "seed": 5, "img_width": 64, "img_height": 64}
BODY = json.dumps(FIELDS).encode()
PACKED = gzip.compress(BODY)
GZIP, CHUNKED = "Content-Encoding: gzip", "Transfer-Encoding: chunked"
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


CLOSE = "Connection: close"
WRONG = {
    "a method": (405, "GET is not for this path", request(CLOSE, method="GET", body=b"")),
    "an unusual method": (405, "PROPFIND", request(CLOSE, method="PROPFIND", body=b"")),
    "no method": (400, "not HTTP/1.1", request(method="FOO")),
    "no model": (404, "There is no /v1/x", request(CLOSE, path="/v1/x")),
    "no path": (404, "There is no /v1/;", request(CLOSE, path="/v1")),
    "the host's second name": (404, "There is no /v1/x", request(CLOSE, path="/api/v1/x")),
    "half an escape": (404, "There is no /v1/%", request(CLOSE, path="/v1/%")),
    "an end of a line in the path": (404, "There is no /v1/%ff???;", request(CLOSE, path="/v1/%ff%00%0d%0a")),
    "an end of a line in an id": (
        404,
        "There is no request a?b",
        request(CLOSE, method="GET", path="/v2/requests/a%0ab", body=b""),
    ),
    "bytes in the path": (400, "not HTTP/1.1", request(path="/v1/\xff")),
    "a space in the path": (400, "not HTTP/1.1", request(path="/v1/a b")),
    "an address without a host": (400, "not HTTP/1.1", request(path=f"http:///v1/{RT}")),
    "a long path": (400, "longer than 8190 bytes", request(path="/v1/" + "a" * 9000)),
    "a long header": (400, "longer than 8190 bytes", request("X-A: " + "a" * 9000)),
    "many headers": (400, "Too many headers", request(*(f"X-{k}: a" for k in range(500)))),
    "a header with a space": (400, "not HTTP/1.1", request("X A: b")),
    "no Host": (400, "Missing 'Host'", request(host=False)),
    "another version": (400, "not HTTP/1.1", request(version="9.9")),
    "a length that is no number": (400, "not HTTP/1.1", request("Content-Length: x")),
    "two lengths": (400, "not HTTP/1.1", request("Content-Length: 1", "Content-Length: 2")),
    "a wrong chunk": (400, "not HTTP/1.1", request(CHUNKED, body=b"ZZZ\r\n")),
    "an unknown Expect": (417, "100-continue", request(CLOSE, "Expect: tea")),
    "another site": (403, "another site", request(CLOSE, "Sec-Fetch-Site: cross-site")),
    "another origin": (403, "another site", request(CLOSE, "Origin: https://evil.example")),
    "a proxy": (401, "VEGA_API_KEYS", request(CLOSE, "Via: 1")),
    "a short secret": (400, "X-Client-Secret", request(CLOSE, "X-Client-Id: me")),
    "an unknown encoding": (415, "'rot13' is not understood", request(CLOSE, "Content-Encoding: rot13")),
    "brotli": (415, "'br' is not understood", request(CLOSE, "Content-Encoding: br")),
    "zstd": (415, "'zstd' is not understood", request(CLOSE, "content-encoding:zstd")),
    "two encodings": (415, "'gzip, gzip'", request(CLOSE, "Content-Encoding: gzip, gzip", body=gzip.compress(PACKED))),
    "two encodings in two headers": (415, "'gzip, deflate'", request(CLOSE, GZIP, "Content-Encoding: deflate", body=PACKED)),
    "nothing packed": (400, "not what gzip makes", request(GZIP)),
    "gzip with a wrong sum": (400, "not what gzip makes", request(GZIP, body=PACKED[:-8] + bytes(8))),
    "gzip and more": (400, "not what gzip makes", request(GZIP, body=PACKED + b"more")),
    "deflate cut short": (
        400,
        "not what deflate makes",
        request("Content-Encoding: deflate", body=zlib.compress(BODY)[:-3]),
    ),
    "gzip in chunks cut short": (
        400,
        "not what gzip makes",
        request(GZIP, CHUNKED, body=chunk(PACKED[:-3]) + chunk(b"")),
    ),
    "no body": (400, "The body is empty", request(CLOSE, body=b"")),
    "a form": (400, "The body is not JSON (expected value at line 1", request(CLOSE, body=b"prompt=a")),
    "half an object": (400, "The body is not JSON (EOF", request(CLOSE, body=BODY[:-2])),
    "two objects": (400, "The body is not JSON (trailing", request(CLOSE, body=BODY * 2)),
    "a list": (400, "not an object", request(CLOSE, body=b"[1]")),
    "another text": (400, "UTF-8", request(CLOSE, body='{"prompt": "größer"}'.encode("latin-1"))),
    "a large length": (413, "larger than 32 MiB", request(CLOSE, length=2**40)),
}


@pytest.mark.parametrize("name", [name for name in WRONG if name != "a large length"])
def test_every_error_is_json_with_the_requests_id(server, name):
    status, said, data = WRONG[name]
    found, headers, body = sent(server, data)
    assert found == status
    assert said in checked(found, headers, body)
    id = headers["x-request-id"]
    log = server.log.read_text(encoding="utf-8")
    assert PROMPT not in log
    if "not HTTP" in said:  # what no handler sees is named in the log as well
        assert f"request {id}: {status}, " in log


def test_a_body_too_large_by_its_own_word_is_refused_at_once(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        connected.sendall(WRONG["a large length"][2])  # aiohttp closes when it has waited for the rest
        answer = connected.recv(2**16)
        while not answer.endswith(b"}"):
            answer += connected.recv(2**16)
    assert "larger than 32 MiB" in checked(*parts(answer))


def test_head_and_options_have_the_id_alone(server):
    """An answer to HEAD or OPTIONS has the request's id and no body."""
    for method, path, status in (("HEAD", RT, 405), ("HEAD", "openapi.json", 200), ("OPTIONS", RT, 200)):
        found, headers, body = sent(
            server, request(CLOSE, "X-Request-Id: mine", method=method, path=f"/v1/{path}", body=b"")
        )
        assert (found, headers["x-request-id"], body) == (status, "mine", b"")


def test_one_id_from_request_to_log(server):
    """The id of a request is in its answer and in the log."""
    good = post(server, headers={"X-Request-Id": "mine:1"}, **FIELDS)
    bad = post(server, headers={"X-Request-Id": "mine:2"}, prompt="")
    assert (good.headers["X-Request-Id"], bad.headers["X-Request-Id"], bad.json()["id"]) == ("mine:1", "mine:2", "mine:2")
    log = server.log.read_text(encoding="utf-8")
    assert re.search(r"Vega API: mine:1: 200, 1 picture, \d+\.\d\d s", log)
    assert re.search(r"Vega API: mine:2: 400, \d+\.\d\d s", log)
    others = ({}, {}, {"X-Request-Id": "a b"}, {"X-Request-Id": "a" * 65})
    made = {post(server, headers=headers, prompt="").json()["id"] for headers in others}
    assert len(made) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in made)
    unreadable = sent(server, request("X-Request-Id: mine:3", "X-A: " + "a" * 9000))
    assert unreadable[1]["x-request-id"] == "mine:3"


def test_events_have_the_id_that_was_given(server, client):
    """Events name a request that came without an id by the one that it was given.

    The host's websocket of `client` has no secret: its id, which nobody can guess, is one.
    """
    answer = post(server, headers={"X-Client-Id": client.id}, **FIELDS | {"seed": 21})  # one that no other has drawn
    told = set()
    while not told:
        message = client.socket.recv()
        if isinstance(message, str) and json.loads(message)["type"] == "progress":
            told.add(json.loads(message)["data"]["prompt_id"])
    assert told == {answer.headers["X-Request-Id"]}


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


def test_a_kept_connection_goes_on_or_is_closed_as_it_says(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:

        def asked(data: bytes) -> tuple[int, dict[str, str], bytes]:
            connected.sendall(data)
            answer = b""
            while len(answer.partition(b"\r\n\r\n")[2]) < int((re.search(rb"Length: (\d+)", answer) or [0, 1])[1]):
                more = connected.recv(2**16)
                assert more, answer
                answer += more
            return parts(answer)

        assert asked(request(method="GET", path="/v1/openapi.json", body=b""))[0] == 200
        assert asked(request(body=b"[]"))[0] == 400
        assert asked(request(GZIP, body=PACKED))[0] == 200
        assert asked(request())[0] == 200
        assert asked(request(method="GET", path="/queue", body=b""))[0] == 200
        status, headers, body = asked(request(GZIP, body=b"nothing packed"))
        assert (status, headers["connection"]) == (400, "close")
        checked(status, headers, body)
        assert connected.recv(1) == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        asked(request(method="GET", path="/queue", body=b""))
        status, headers, body = asked(request("Content-Encoding: br"))
        assert "'br' is not understood" in checked(status, headers, body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        asked(request(method="GET", path="/queue", body=b""))
        asked(request())
        status, headers, body = asked(request(GZIP, body=PACKED[:-4]))
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


def test_other_paths_are_answered_as_the_host_answers_them(server):
    for data, status in ((request("Content-Encoding: br", path="/prompt"), 400), (request(CLOSE, path="/none"), 405)):
        found, headers, _ = sent(server, data)
        assert found == status
        assert headers["content-type"].startswith("text/plain")
        assert "x-request-id" not in headers
    assert "x-request-id" not in requests.get(f"{server.url}/queue").headers
    document = request(method="GET", path="/v1/openapi.json", body=b"")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connected:
        connected.sendall(document + request(CLOSE, path="/prompt", body=b"[]"))  # read before the first is answered
        assert everything(connected).lower().count(b"x-request-id: ") == 1
    _, headers, _ = sent(server, request(CLOSE, method="GET", path="/v1%2fopenapi.json", body=b""))  # which is not in /v1
    assert "x-request-id" not in headers


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
                await asked(port, data)
            gone = asyncio.get_running_loop().time() + 5
            while kept() and asyncio.get_running_loop().time() < gone:
                await asyncio.sleep(0.01)
            assert kept() == 0

    def kept() -> int:
        return sum(isinstance(found, connection.Connection) for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        asyncio.run(go())
    finally:
        gc.enable()


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


async def others(request: web.Request) -> web.Response:
    """Another pack's route under /v1."""
    return web.Response(status=409, text=f"{len(await request.read())} bytes")


def test_another_packs_routes_under_v1_answer_as_they_will():
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=409)

    async def go():
        async with listening(handler) as port:
            for data in (request(path="/v1/others"), request(GZIP, path="/v1/others", body=PACKED)):
                status, headers, body = await asked(port, data)
                assert (status, body) == (409, b"%d bytes" % len(BODY))
                assert "x-request-id" not in headers
            assert checked(*await asked(port, request(path="/v1/other"))) == "Conflict"

    asyncio.run(go())


@asynccontextmanager
async def listening(handler, *middlewares):
    """The port of a server with our middleware and our connections, and others' middlewares within."""
    app = web.Application(middlewares=[middleware.api_middleware, *middlewares])
    app.router.add_route("*", "/v1/{path:.*}", middleware.api_handler(handler))
    app.router.add_post("/v1/others", others)
    connection.install(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def asked(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
    writer.close()  # aiohttp may wait for the rest of the request first
    return parts(head + body)


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
            found = await asyncio.gather(*(asked(port, data) for data in [small, large] * (2 * MAX_LARGE_BODIES)))
            for status, headers, body in found:
                assert (status, headers["connection"]) == (408, "close")
                assert "stands still" in checked(status, headers, body)
            assert (await asked(port, request(CLOSE, body=b"a" * 2 * MIB)))[2] == b'{"length": %d}' % (2 * MIB)

    asyncio.run(go())


def test_large_bodies_have_turns_and_small_ones_need_none(monkeypatch):
    monkeypatch.setattr(body_limits, "LARGE_BODY_WAIT_TIMEOUT_S", 0.2)  # seconds

    async def go():
        limits = BodyLimits(8, timeout_s=60)
        async with listening(reading(limits)) as port:
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_LARGE_BODIES)]
            for _, writer in held:
                writer.write(request(CLOSE, body=b"a" * MIB, length=MIB + 1))
            while not limits.large_bodies.locked():
                await asyncio.sleep(0.01)
            assert (await asked(port, request(CLOSE)))[0] == 200
            large, packed = request(body=b"a" * MIB, length=MIB + 1), request(GZIP, body=gzip.compress(bytes(MIB)))
            for status, headers, body in await asyncio.gather(asked(port, large), asked(port, packed)):
                assert (status, headers["retry-after"]) == (429, "60")
                assert "large bodies" in checked(status, headers, body)
            for reader, writer in held:
                writer.write(b"a")
                assert b'{"length": %d}' % (MIB + 1) in await reader.read()
            assert (await asked(port, packed))[0] == 200
            status, headers, body = await asked(port, request(GZIP, body=gzip.compress(bytes(9 * MIB))))
            assert status == 413
            assert "8 MiB" in checked(status, headers, body)

    asyncio.run(go())


def test_what_fails_before_our_route_is_json_too(caplog):
    """A middleware of the host's or of another pack."""

    @web.middleware
    async def fails(request: web.Request, handler):
        if "raise" in request.query:
            raise {"http": web.HTTPConflict(text="no"), "error": ValueError("why")}[request.query["raise"]]
        return await handler(request)

    async def handler(request: web.Request):
        raise web.HTTPFound("/elsewhere")

    async def go():
        async with listening(handler, fails) as port:
            status, headers, body = await asked(port, request(CLOSE, path="/v1/x?raise=error"))
            assert status == 500
            assert headers["x-request-id"] in checked(status, headers, body)
            assert re.search(rf"request {headers['x-request-id']} failed: ValueError", caplog.text)
            assert PROMPT not in caplog.text
            assert checked(*await asked(port, request(CLOSE, path="/v1/x?raise=http"))) == "Conflict"
            assert (await asked(port, request(CLOSE)))[0] == 302

    asyncio.run(go())
