"""What docs/api.md says under "What is protected", on a server that this machine's other address reaches as well."""

import concurrent.futures
import json
import socket

import graphs
import many_tensors
import pytest
import requests
import torch
import websocket
from api_calls import BASE, PROMPT, RT, opened, post, queue, raw, send_and_leave, wait_for
from machine_lacks import own_address
from safetensors.torch import save_file

from dev import comfyui
from vega_client import Client  # noqa: E402

REBOUND = ("evil.example:{}", "127.0.0.1.nip.io:{}", "localhost.evil.example", "0.0.0.0:{}", "[::2]:{}")
MALFORMED = ("", "1", "localhost:a", "localhost:1.evil", "user@localhost", "127.1", "127.0.0.256", "localhost.", "::1")


@pytest.fixture(scope="module")
def elsewhere_url(open_server):
    return f"http://{own_address()}:{open_server.port}"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    """Without keys, at this machine's other address, too."""
    base = tmp_path_factory.mktemp("open")
    (base / "models" / "embeddings").mkdir(parents=True)
    for name, width in (("dunes", 64), ("narrow-zebra", 8)):  # vega-nano's encoders are 64 wide
        vectors = {"clip_l": torch.zeros(1, width), "clip_g": torch.zeros(1, width)}
        save_file(vectors, base / "models" / "embeddings" / f"{name}.safetensors")
    (base / "models" / "embeddings" / "damaged-zebra.safetensors").write_bytes(b"no tensors")
    many_tensors.write(base / "models" / "embeddings" / "many-zebra.safetensors", 30_000)
    listen = ["--listen", f"127.0.0.1,{own_address()}"]
    names = "dunes, damaged-zebra, many-zebra, absent-zebra, narrow-zebra"
    with comfyui.serve(base, *listen, VEGA_API_EMBEDDINGS=names) as running:
        yield running


@pytest.fixture(scope="module")
def sent(open_server) -> str:
    """The path of a picture of Send Image."""
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    prompt["2"] = graphs.sending("1", "png")
    with open_server.connect() as client:
        return client.run(prompt)["2"]["sent"][0]["url"]


def statuses(url: str, sent: str, **headers: str) -> tuple[int, int, int]:
    """Of a request to draw, which the contract refuses if it is served, of the document and of a sent picture."""
    document, picture = (requests.get(url + path, headers=headers).status_code for path in ("/v1/openapi.json", sent))
    return requests.post(f"{url}/v1/{RT}", json={}, headers=headers).status_code, document, picture


def test_without_keys_only_a_name_of_this_machine_is_served(open_server, sent):
    for host in ("localhost", "LocalHost:1", "127.0.0.1:", "127.9.9.9:80", "[::1]:8188"):
        assert statuses(open_server.url, sent, Host=host) == (400, 200, 200), host
    for host in REBOUND:
        host = host.format(open_server.port)
        rebound = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert statuses(open_server.url, sent, Host=host, **rebound) == (401, 401, 401), host
        said = post(open_server, headers={"Host": host}, prompt=PROMPT).json()["error"]
        assert "set VEGA_API_KEYS" in said and "localhost" in said
    for host in MALFORMED:
        assert statuses(open_server.url, sent, Host=host) == (401, 401, 401), host
    assert statuses(open_server.url, sent, **{"X-Forwarded-Host": "localhost"}) == (401, 401, 401)


@pytest.mark.parametrize("path", ["/v1/openapi.json", "SENT"])
def test_without_keys_a_request_without_one_host_is_refused(open_server, sent, path):
    path = path.replace("SENT", sent)
    for head in (f"GET {path} HTTP/1.0\r\n\r\n", f"GET {path} HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", open_server.port), timeout=60) as connection:
            connection.sendall(head.encode())
            assert connection.recv(2**12).split()[1] in (b"400", b"401")


def test_another_address_is_served_only_what_was_sent(elsewhere_url, sent):
    """Without keys another address is served nothing but pictures that were sent.

    Whatever it says it is; a sent picture's id protects it there, as the host's /view stands open.
    """
    for headers in ({}, {"Host": "localhost"}, {"Host": "127.0.0.1", "x-api-key": "a"}):
        assert statuses(elsewhere_url, sent, **headers) == (401, 401, 200)
    assert requests.get(f"{elsewhere_url}/vega/sent/never").status_code == 404


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/v1/models"])
def test_another_address_is_told_only_that_it_runs(open_server, elsewhere_url, path):
    """Without keys operators at another address are told that it runs, and no more."""
    for url, headers in ((elsewhere_url, {"Host": "localhost"}), (open_server.url, {"Host": "evil.example"})):
        assert requests.get(f"{url}/healthz", headers=headers).json() == {"status": "ok"}
        answer = requests.get(url + path, headers=headers)
        assert (answer.status_code, "set VEGA_API_KEYS" in answer.json()["error"]) == (401, True)
    assert requests.get(open_server.url + path, headers={"Via": "1.1 proxy"}).status_code == 401


def interrupt(server) -> None:
    """As a stranger does, whenever something of the API runs, until a request is given up."""
    before = count_given_up(server)
    while count_given_up(server) == before:
        wait_for(lambda: queue(server)[0] or count_given_up(server) > before)
        server.post("/interrupt", {})


def count_given_up(server) -> int:
    return server.log.read_text(encoding="utf-8").count(" is given up: Somebody interrupted ComfyUI")


def test_what_is_always_interrupted_is_503(open_server):
    """What others go on interrupting is 503 with Retry-After, and the client asks again."""
    fields = {"num_inference_steps": 40, "img_width": 128, "img_height": 128, "format": "png"}
    with Client(open_server.url) as client, concurrent.futures.ThreadPoolExecutor() as pool:
        refused = pool.submit(post, open_server, BASE, prompt=PROMPT, seed=1, **fields)
        interrupt(open_server)
        answer = refused.result()
        assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (503, True)
        drawing = pool.submit(client.generate, PROMPT, seed=1, model=BASE, **fields)
        interrupt(open_server)
        drawn = drawing.result()
    open_server.free()  # what it has drawn, it has not kept
    assert drawn.tobytes() == opened(post(open_server, BASE, prompt=PROMPT, seed=1, **fields)).tobytes()
    log = open_server.log.read_text(encoding="utf-8")
    assert answer.json()["id"] in log
    assert PROMPT not in log


def read_kinds(connection) -> list[str]:
    """The kinds of events before a graph of one's own begins."""
    kinds = []
    while "execution_start" not in kinds:
        message = connection.recv()
        kinds.append(json.loads(message)["type"] if isinstance(message, str) else "preview")
    return kinds


ID, SECRET = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@pytest.mark.parametrize(
    ("query", "headers", "hears"),
    [
        (f"clientId={ID}&secret={SECRET}", {"X-Client-Id": ID, "X-Client-Secret": SECRET}, True),
        pytest.param(
            f"clientId=1&secret={SECRET}", {"X-Client-Id": "1", "X-Client-Secret": SECRET}, True, marks=pytest.mark.soak
        ),
        (f"clientId={ID}", {"X-Client-Id": ID}, True),  # clients from before there was a secret
        (f"clientId={ID}&secret={SECRET}", {"X-Client-Id": ID}, False),
        (f"clientId={ID}&secret={SECRET}", {"X-Client-Id": ID, "X-Client-Secret": SECRET[::-1]}, False),
        (f"clientId={ID}", {"X-Client-Id": ID, "X-Client-Secret": SECRET}, False),  # a stranger's, in the place of one's own
    ],
)
def test_progress_reaches_only_the_same_secret(open_server, query, headers, hears):
    """Progress and previews reach only the websocket with the same secret."""
    direct = socket.create_connection(("127.0.0.1", open_server.port), timeout=60)
    connection = websocket.create_connection(f"ws://127.0.0.1:{open_server.port}/ws?{query}", socket=direct)
    flags = {"supports_preview_metadata": True}
    connection.send(json.dumps({"type": "feature_flags", "data": flags}))
    post(open_server, headers={**headers, "X-Previews": "true"}, prompt=PROMPT, num_inference_steps=2)
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    open_server.post("/prompt", {"client_id": headers["X-Client-Id"], "prompt": graph})
    kinds = read_kinds(connection)  # the graph's events come after what the API had to say
    direct.close()
    assert ({"progress", "preview"} <= set(kinds)) == hears
    assert ("progress" in kinds or "preview" in kinds) == hears


@pytest.mark.parametrize(
    "headers", [{"X-Client-Id": "1"}, {"X-Client-Id": ID[:31]}, {"X-Client-Id": ID, "X-Client-Secret": "1"}]
)
def test_a_client_id_that_can_be_guessed_is_refused(open_server, headers):
    answer = post(open_server, headers=headers, prompt=PROMPT)
    assert answer.status_code == 400
    assert "at least 32 characters" in answer.json()["error"]


NAMES = ("secret-zebra", "../secret-zebra", "secret-zebra<x", "damaged-zebra", "many-zebra", "absent-zebra,")
NAMES += ("narrow-zebra", "dunes.zebra")
FORMS = ("embedding:{}", "a\tembedding: {} b", "((sea (embedding:{}:1.2)):0.9)", "(a)embedding:{}")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=[] if NAMES[0] == name or FORMS[0] == form else pytest.mark.soak)
        for name in NAMES
        for form in FORMS
    ],
)
def test_a_refused_embedding_is_in_no_log(open_server, name, form):
    """An embedding that is not allowed or damaged is 400, and in no log."""
    for fields in ({"prompt": form.format(name)}, {"prompt": "embedding:dunes", "negative_prompt": form.format(name)}):
        path = BASE if len(fields) > 1 else RT
        answer = post(open_server, path, **fields)
        assert (answer.status_code, answer.json()["field"]) == (400, list(fields)[-1])
        assert "secret" not in answer.text
        assert ("more than 20000 tensors" in answer.text) == (name == "many-zebra")
    assert "zebra" not in open_server.log.read_text(encoding="utf-8")
    assert "zebra" not in open_server.get("/internal/logs/raw").text


def test_an_allowed_embedding_is_in_no_log(open_server):
    """An embedding that is allowed, and what is only text, is drawn and in no log."""
    for prompt in (
        "embedding:dunes, zebra",
        "(embedding:dunes:1.2) zebra",
        "embedding :zebra",
        "xembedding:zebra",
        "Embedding:zebra",
    ):
        assert post(open_server, prompt=prompt, seed=1).status_code == 200
    with send_and_leave(open_server, prompt="zebra", num_inference_steps=100):  # interrupted
        wait_for(lambda: queue(open_server)[0])
    wait_for(lambda: queue(open_server) == [[], []])
    raw(open_server, f"POST /v1/{RT} HTTP/1.1\r\nContent-Length: 9".encode(), b'{"prompt": "zebra zebra zebra"}')
    for head in (f"POST /v1/{RT} HTTP/1.1\r\nTransfer-Encoding: chunked", "GET zebra HTTP/1.1", "zebra"):
        raw(open_server, head.encode(), b'{"prompt": "zebra"}')
    assert "zebra" not in open_server.log.read_text(encoding="utf-8")
    assert "zebra" not in open_server.get("/internal/logs/raw").text
