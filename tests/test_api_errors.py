"""Errors of the HTTP API over real sockets: each is JSON with the request's id, whoever refuses it."""

import asyncio
import gzip
import re
import socket
import zlib

import pytest
import requests
from aiohttp import web
from api_app import listening, send_request
from api_calls import PROMPT, RT
from raw_http import BODY, CHUNKED, CLOSE, GZIP, PACKED, checked, chunk, everything, parts, request, sent

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


def test_another_packs_routes_under_v1_answer_as_they_will():
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=409)

    async def go():
        async with listening(handler) as port:
            for data in (request(path="/v1/others"), request(GZIP, path="/v1/others", body=PACKED)):
                status, headers, body = await send_request(port, data)
                assert (status, body) == (409, b"%d bytes" % len(BODY))
                assert "x-request-id" not in headers
            assert checked(*await send_request(port, request(path="/v1/other"))) == "Conflict"

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
            status, headers, body = await send_request(port, request(CLOSE, path="/v1/x?raise=error"))
            assert status == 500
            assert headers["x-request-id"] in checked(status, headers, body)
            assert re.search(rf"request {headers['x-request-id']} failed: ValueError", caplog.text)
            assert PROMPT not in caplog.text
            assert checked(*await send_request(port, request(CLOSE, path="/v1/x?raise=http"))) == "Conflict"
            assert (await send_request(port, request(CLOSE)))[0] == 302

    asyncio.run(go())
