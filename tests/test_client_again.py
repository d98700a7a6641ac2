"""What the Python client asks again, and what it doesn't: a relay answers in the server's place, as proxies and Ray do."""

import json
import threading
import time
import uuid

import pytest
import relay
import requests
from PIL import Image, ImageChops

from dev import comfyui
from vega_client import Client, RequestError, retry

PROMPT = "night, desert, full moon"
SMALL = {"seed": 3, "format": "png", "width": 64, "height": 64}
ROUTES = b"Path '/v1/segmind-vega-rt-v1' not found. Ping http://.../-/routes for available routes."


def http_response(status: str, body: bytes, kind="text/plain", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def json_response(status: str, *headers: str, **body: str) -> bytes:
    return http_response(status, json.dumps(body).encode(), "application/json", *headers)


@pytest.fixture(scope="module")
def expected(server) -> Image.Image:
    with Client(server.url) as client:
        return client.generate(PROMPT, **SMALL)


@pytest.mark.parametrize(
    "answer",
    [
        http_response("500 Internal Server Error", b"Internal Server Error"),  # Ray's, when a gateway dies
        http_response("500 Internal Server Error", b'{"detail": "Internal Server Error"}', "application/json"),
        http_response("500 Internal Server Error", b'["error"]', "application/json"),
        http_response("502 Bad Gateway", b"<html><h1>502 Bad Gateway</h1></html>", "text/html"),
        http_response("503 Service Unavailable", b"", "text/html"),
        http_response("520 Web Server Returned an Unknown Error", b"error code: 520"),
        http_response("404 Not Found", ROUTES),  # Ray's, when its proxy has just been started
        http_response("200 OK", b"<html>Back in a minute.</html>", "text/html"),
        json_response(
            "503 Service Unavailable", "Retry-After: 1", error="The server is being stopped; ask again in 1 s.", id="1"
        ),
        json_response("429 Too Many Requests", "Retry-After: 1", error="Too many requests are waiting."),
        http_response("200 OK", b"X" * 200, "image/png", "X-Seed: 3")[:-100],  # half an answer
        b"HTTP/1.1 200 OK\r\nContent-Type: image/p",
        b"",
    ],
)
def test_a_foreign_answer_is_asked_for_again(server, expected, answer):
    """An answer that is not the API's is asked for again, under one id."""
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        network.answers = [answer, answer]
        image = client.generate(PROMPT, **SMALL)
    assert not ImageChops.difference(image, expected).getbbox()
    heard = [asked.decode().partition("\r\n\r\n")[0].lower().split("\r\n") for asked in network.asked]
    first, second = ([line for line in lines if line.startswith("x-request-id: ")] for lines in heard)
    assert first == second
    (id,) = (line.removeprefix("x-request-id: ") for line in first)
    assert uuid.UUID(hex=id).version == 4


@pytest.mark.parametrize(
    "answer",
    [
        json_response(
            "500 Internal Server Error", error="The picture could not be drawn; the log says why.", id="made-here"
        ),
        json_response("400 Bad Request", error="prompt: too long.", field="prompt", id="made-here"),
        json_response("401 Unauthorized", "X-Request-Id: made-here", error="There is no key."),
    ],
)
def test_the_apis_own_refusal_is_told_at_once_with_its_id(server, answer):
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        network.answers = [answer]
        with pytest.raises(RequestError) as refused:
            client.generate(PROMPT, seed=3)
    assert refused.value.id == "made-here"
    assert ("made-here" in str(refused.value)) == (refused.value.status == 500)  # what the server's log explains


def test_a_page_of_something_else_is_told_at_once(server):
    """As of a ComfyUI without this pack."""
    with Client(f"{server.url}/elsewhere") as client, pytest.raises(RequestError) as refused:
        client.generate(PROMPT)
    assert refused.value.status in (404, 405)


def test_a_server_without_a_model_is_told(server, monkeypatch):
    """A server without a model is asked for a minute, and then the error tells it."""
    assert retry.FIRST_RESPONSE_SECONDS == 60
    monkeypatch.setattr(retry, "FIRST_RESPONSE_SECONDS", 0.5)
    answer = json_response(
        "503 Service Unavailable", error="No model is available; the server's log says why.", id="made-here"
    )
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        client.generate(PROMPT, seed=3)
        network.answers = [answer] * 20
        network.disconnect_all()
        with pytest.raises(RequestError, match=r"No model is available.*\(id made-here\)"):
            client.generate(PROMPT, seed=4)
        assert 0 < len(network.answers) < 19


def test_a_server_that_is_busy_has_answered(server, expected, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_RESPONSE_SECONDS", 0.5)
    busy = json_response("429 Too Many Requests", "Retry-After: 1", error="Too many requests are waiting.")
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        network.answers = [busy, busy]
        assert not ImageChops.difference(client.generate(PROMPT, **SMALL), expected).getbbox()


def test_a_servers_first_request_waits_for_it_to_start(server, expected, caplog):
    """With nobody at the port at first; Ray Serve's proxy takes 36 s to be there again."""
    assert retry.FIRST_RESPONSE_SECONDS >= 1.5 * 36
    port, found = comfyui.free_port(), []
    with Client(f"http://127.0.0.1:{port}") as one, Client(f"http://127.0.0.1:{port}") as other:
        calls = [lambda: one.generate(PROMPT, **SMALL), lambda: other.generate(PROMPT, on_progress=print, **SMALL)]
        threads = [threading.Thread(target=lambda call=call: found.append(call())) for call in calls]
        for thread in threads:
            thread.start()
        while len(caplog.records) < 2:
            time.sleep(0.05)
        with relay.to(server.port, port):
            for thread in threads:
                thread.join()
    for image in found:
        assert not ImageChops.difference(image, expected).getbbox()
    assert len(found) == 2
    assert {record.getMessage() for record in caplog.records} == {
        f"No ComfyUI answers at http://127.0.0.1:{port} yet; trying for 60 s."
    }


def test_a_wrong_address_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_RESPONSE_SECONDS", 1.0)
    for url in (f"http://127.0.0.1:{comfyui.free_port()}", "http://no-such-host.invalid:8188"):
        for more in ({}, {"on_progress": print}):
            with Client(url) as client, pytest.raises(ConnectionError, match="Nothing answers at .*no|127"):
                client.generate(PROMPT, **more)


def test_a_closed_client_says_so(server):
    client = Client(server.url)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.generate(PROMPT)


def test_a_callback_may_not_use_its_own_client(server):
    """A callback that uses its own client is an error and no deadlock."""
    with Client(server.url) as client, pytest.raises(RuntimeError, match="callback"):
        client.generate(PROMPT, on_progress=lambda *_: client.generate(PROMPT))


def test_forgotten_pictures_are_drawn_again_or_told(server):
    """Pictures that the server keeps no more are drawn again, or an error tells it.

    More than it keeps at a time are never all there.
    """
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 70, "color": 0}}}
    graph["2"] = {"class_type": "VegaSendImage", "inputs": {"images": ["1", 0], "format": "png", "quality": 95}}
    with Client(server.url) as client:
        with pytest.raises(RequestError, match="the last 64 are kept") as refused:
            client.queue(graph)
        assert refused.value.status == 410
        graph["1"]["inputs"]["batch_size"] = 60
        assert len(client.queue(graph)) == 60
    assert requests.get(f"{server.url}/queue").json() == {"queue_running": [], "queue_pending": []}
