"""What docs/api.md says under "What is protected", on a server that this machine's other address reaches as well."""

import socket

import comfyui
import graphs
import pytest
import requests
from api_calls import PROMPT, RT, post
from machine_lacks import lacks

REBOUND = ("evil.example:{}", "127.0.0.1.nip.io:{}", "localhost.evil.example", "0.0.0.0:{}", "[::2]:{}")
MALFORMED = ("", "1", "localhost:a", "localhost:1.evil", "user@localhost", "127.1", "127.0.0.256", "localhost.", "::1")


def own_address() -> str:
    """One of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            lacks("an address besides loopback")
        return probe.getsockname()[0]


@pytest.fixture(scope="module")
def elsewhere_url(open_server):
    return f"http://{own_address()}:{open_server.port}"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    """Without keys, at this machine's other address, too."""
    with comfyui.serve(tmp_path_factory.mktemp("open"), "--listen", f"127.0.0.1,{own_address()}") as running:
        yield running


@pytest.fixture(scope="module")
def sent(open_server) -> str:
    """The path of a picture of Send Image."""
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
    prompt["2"] = graphs.sending("1", "png")
    with open_server.connect() as client:
        return client.run(prompt)["2"]["sent"][0]["url"]


def statuses(url: str, sent: str, **headers: str) -> tuple[int, int, int]:
    """Of a drawing, of the document and of a sent picture."""
    document, picture = (requests.get(url + path, headers=headers).status_code for path in ("/v1/openapi.json", sent))
    drawing = requests.post(f"{url}/v1/{RT}", json={"prompt": PROMPT}, headers=headers)
    return drawing.status_code, document, picture


def test_without_keys_only_a_name_of_this_machine_is_served(open_server, sent):
    for host in ("localhost", "LocalHost:1", "127.0.0.1:", "127.9.9.9:80", "[::1]:8188"):
        assert statuses(open_server.url, sent, Host=host) == (200, 200, 200), host
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


def test_without_keys_another_address_is_served_nothing_but_what_was_sent(elsewhere_url, sent):
    """Whatever it says it is; a sent picture's id protects it there, as the host's /view stands open."""
    for headers in ({}, {"Host": "localhost"}, {"Host": "127.0.0.1", "x-api-key": "a"}):
        assert statuses(elsewhere_url, sent, **headers) == (401, 401, 200)
    assert requests.get(f"{elsewhere_url}/vega/sent/never").status_code == 404
