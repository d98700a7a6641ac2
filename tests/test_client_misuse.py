"""What the Python client can't work with, whatever it is given: one sentence, at once."""

import asyncio
import http.server
import ssl
import threading
from pathlib import Path

import pytest
import relay
from PIL import Image

from vega_client import AsyncClient, Client, RequestError, retry

PROMPT = "night, desert, full moon"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8188",
        "ftp://127.0.0.1:8188",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://[::1:8188",
        "http://127.0.0.1:8188/?key=1",
        "http://127.0.0.1:8188/#top",
        "http://127.0.0.1\n:8188",
        8188,
        None,
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_is_told_when_the_client_is_made(kind, url):
    with pytest.raises(ValueError, match="is no address of a server: give one such as http://127.0.0.1:8188"):
        kind(url)


@pytest.mark.parametrize("url", ["HTTP://LOCALHOST:{}/", " http://127.0.0.1:{} ", "http://127.0.0.1:{}//"])
def test_an_address_may_be_written_otherwise(server, url):
    with Client(url.format(server.port)) as client:
        assert client.generate(PROMPT, steps=2, on_progress=lambda *_: None).size == (256, 256)


@pytest.mark.parametrize("more", [{}, {"on_progress": print}])
def test_https_where_there_is_none_is_told_at_once(server, more):
    with Client(f"https://127.0.0.1:{server.port}") as client, pytest.raises(ConnectionError, match="WRONG_VERSION_NUMBER"):
        client.generate(PROMPT, **more)
    assert not client.client.transport.policy.has_warned


def test_a_broken_handshake_is_tried_again():
    """A connection that breaks in its handshake is tried again."""

    def of(error: Exception) -> Exception:
        told = retry.httpx.ConnectError(str(error))
        told.__cause__ = error
        return told

    assert retry.is_transient(of(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")))
    assert not retry.is_transient(of(ssl.SSLCertVerificationError(1, "certificate verify failed")))


@pytest.mark.parametrize("key", ["a-secret\n", " a-secret", "a-\0secret", b"a-secret", 5])
def test_a_key_that_no_header_can_have_is_told_and_not_shown(key):
    with pytest.raises(ValueError, match="key is no key") as error:
        Client(key=key)
    assert "secret" not in str(error.value)


def test_a_key_may_have_letters_beyond_ascii(server):
    """As a file of keys may."""
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}", key="schlüssel") as client:
        network.answers = [b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]
        with pytest.raises(RequestError):
            client.generate(PROMPT)
        assert "x-api-key: schlüssel\r\n".encode() in network.asked[0]


def test_a_client_belongs_to_one_event_loop(server):
    client = AsyncClient(server.url)

    async def draw() -> None:
        await client.generate(PROMPT, steps=2)

    asyncio.run(draw())
    for again in (draw, client.close):
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(again())


async def awaited(*_) -> None:
    """No callback."""


@pytest.mark.parametrize("options", [{"on_progress": awaited}, {"on_preview": "print"}])
def test_what_is_no_callback_is_told_at_once(server, options):
    (name,) = options
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    with Client(server.url) as client:
        for call in (lambda: client.generate(PROMPT, **options), lambda: client.queue(graph, **options)):
            with pytest.raises(TypeError, match=f"{name} must be a function"):
                call()


@pytest.mark.parametrize(
    ("image", "kind", "said"),
    [
        ("dawn.png", TypeError, "PIL.Image.open"),
        (b"dawn", TypeError, "PIL.Image.open"),
        ("", TypeError, "PIL.Image.open"),
        (Image.new("RGB", (0, 5)), ValueError, "no pixels"),
    ],
)
def test_what_is_no_image_is_told_at_once(image, kind, said):
    with Client() as client, pytest.raises(kind, match=said):
        client.generate(PROMPT, image=image)


@pytest.mark.parametrize("workflow", [None, [1], b"{}", 5])
def test_what_is_no_workflow_is_told_at_once(workflow):
    with Client() as client, pytest.raises(ValueError, match=f"is a {type(workflow).__name__}: give a file's path"):
        client.queue(workflow)


def test_overrides_are_a_dict_with_names(server):
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    with Client(server.url) as client:
        for overrides, said in ((["1.width"], "must be a dict"), ({5: 1}, "No input is called 5; there are 1.width")):
            with pytest.raises(ValueError, match=said):
                client.queue(graph, overrides)


@pytest.mark.parametrize("model", ["../prompt", "segmind-vega-rt-v1?a=b", "a/b#c"])
def test_a_model_is_one_name_under_v1(server, model):
    with Client(server.url) as client, pytest.raises(RequestError, match="There is no /v1/") as refused:
        client.generate(PROMPT, model=model)
    assert refused.value.status == 404


PAGE = b"<html><body><h1>Not here</h1></body></html>"


def answer(status: str, kind: str, body: bytes = PAGE, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        (answer("404 Not Found", "text/html"), "answers 404 Not Found with a page: there is no ComfyUI with this pack"),
        (answer("301 Moved Permanently", "text/html", PAGE, "Location: https://vega.example/"), "leads to https://vega.ex"),
        (answer("403 Forbidden", "application/json", b'{"error": {"code": 7}}'), "code"),
        (answer("403 Forbidden", "application/json", b'{"error": 7}', "X-Request-Id: a"), "7"),
        (answer("418 I'm a teapot", "text/plain", b"short"), "short"),
    ],
)
def test_who_is_no_comfyui_is_told_in_a_sentence(server, answered, said):
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        network.answers = [answered]
        with pytest.raises(RequestError, match=said) as refused:
            client.generate(PROMPT)
    assert "<" not in str(refused.value)
    assert str(refused.value.status) in answered.decode()


def test_a_server_of_something_else_is_told_by_queue():
    """Which answers every question with a page and 200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.wfile.write(answer("200 OK", "text/html"))

        def log_message(self, *_):
            """Says nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        workflow = Path(__file__).resolve().parents[1] / "workflows" / "01 Text to picture.json"
        address = f"http://127.0.0.1:{other.server_port}"
        with Client(address) as client, pytest.raises(RequestError, match="is not what a ComfyUI answers"):
            client.queue(workflow)
        other.shutdown()
