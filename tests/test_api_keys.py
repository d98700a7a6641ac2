"""Whom the HTTP API serves: with keys who has one, without keys this machine alone, and no other site."""

import base64
import concurrent.futures
import json

import psutil
import pytest
import requests
import websocket
from api_calls import PROMPT, RT, post, wait_for
from live_sockets import LiveSocket
from vega_pack.contract.auth import KeyAuth

from dev import comfyui

KEYS = ("a-first-key", "a-second-kéy", "a-third-key")
REMARK = "of the third floor"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with two keys in its environment and one in a file. ComfyUI's own check of origins is off."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"# {REMARK}\r\n\r\n {KEYS[2]} \r\n", encoding="utf-16")  # as Windows' Notepad may
    keys = {"VEGA_API_KEYS": ", ".join(KEYS[:2]), "VEGA_API_KEYS_FILE": str(folder / "keys")}
    with comfyui.serve(folder, "--enable-cors-header", **keys) as running:
        yield running


def test_keys(guarded):
    for key in (None, "", "a-first", KEYS[0] + "x", ", ".join(KEYS), "\u00ff", REMARK, f"# {REMARK}"):
        headers = {} if key is None else {"x-api-key": key.encode()}
        response = post(guarded, headers=headers, prompt=PROMPT, seed=1)
        assert response.status_code == 401
        assert "x-api-key" in response.json()["error"]
    assert requests.get(f"{guarded.url}/v1/openapi.json").status_code == 401
    for key in KEYS:
        assert post(guarded, headers={"x-api-key": key.encode()}, prompt=PROMPT, seed=1).status_code == 200
    log = guarded.log.read_text(encoding="utf-8")
    assert not [key for key in KEYS if key in log]


def test_live_asks_for_a_key(guarded):
    """In the header, or among a page's protocols; another site is kept out with a key, too."""
    encoded = [base64.urlsafe_b64encode(key.encode()).decode().rstrip("=") for key in (*KEYS, "a-first")]
    for options in ({}, {"header": ["x-api-key: a-first"]}, {"subprotocols": ["vega-live", f"vega-key.{encoded[-1]}"]}):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            LiveSocket(guarded, **options)
        assert refused.value.status_code == 401
        assert b"x-api-key" in refused.value.resp_body
    for key in encoded[:-1]:
        with LiveSocket(guarded, subprotocols=["vega-live", f"vega-key.{key}"]) as socket:
            assert socket.socket.subprotocol == "vega-live"
    with LiveSocket(guarded, header=[f"x-api-key: {KEYS[0]}"]) as socket:
        assert socket.receive()[0]["type"] == "waiting"
    for origin in (
        "https://example.com",
        "null",
        f"http://127.0.0.1:{guarded.port + 1}",
        f"http://localhost:{guarded.port}",
    ):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            LiveSocket(guarded, header=[f"x-api-key: {KEYS[0]}"], origin=origin)
        assert refused.value.status_code == 403
        assert b"Pages of other sites" in refused.value.resp_body


def test_wrong_keys_at_speed_fill_nothing_and_keep_nobody_out(guarded):
    body = json.dumps({"prompt": "a", "image": "A" * 2**19})
    memory = psutil.Process(guarded.process.pid).memory_info

    def guess(k: int) -> int:
        with requests.Session() as session:
            url = f"{guarded.url}/v1/{RT}"
            return {session.post(url, data=body, headers={"x-api-key": f"{k}-{n}"}).status_code for n in range(40)}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(guess, range(8))) == {401}
        before = memory().rss
        assert set().union(*pool.map(guess, range(8, 16))) == {401}
    assert memory().rss - before < 2**24
    assert post(guarded, headers={"x-api-key": KEYS[0]}, prompt=PROMPT).status_code == 200
    assert "15-39" not in guarded.log.read_text(encoding="utf-8")


def test_v2_is_for_the_key_that_submitted(guarded):
    """Its picture is for whoever has the address, which can't be guessed, as Segmind's are."""
    url, mine, other = f"{guarded.url}/v2", {"x-api-key": KEYS[0]}, {"x-api-key": KEYS[2]}
    told = requests.post(f"{url}/{RT}", json={"prompt": PROMPT, "seed": 1}, headers=mine).json()
    paths = (told["status_url"], told["response_url"], f"{told['response_url']}/cancel", f"{url}/{RT}", f"{url}/none")
    for path in paths:
        answer = requests.post(path) if path.endswith(("cancel", RT)) else requests.get(path)
        assert (answer.status_code, "x-api-key" in answer.json()["error"]) == (401, True), path
    for path in paths[:3]:
        answer = requests.post(path, headers=other) if path.endswith("cancel") else requests.get(path, headers=other)
        assert (answer.status_code, "another key" in answer.json()["error"]) == (404, True), path
    wait_for(lambda: requests.get(told["status_url"], headers=mine).json()["status"] == "COMPLETED")
    output = requests.get(told["response_url"], headers=mine).json()["output"]
    assert told["request_id"] not in output
    assert requests.get(output).content == post(guarded, headers=mine, prompt=PROMPT, seed=1).content
    assert requests.get(output[:-6] + "x.jpeg").status_code == 404


@pytest.mark.parametrize(
    "name",
    ["Forwarded", "X-Forwarded-For", "x-forwarded-host", "Via", "X-Real-IP", "x_forwarded_for", "Cf-Ray", "True-Client-IP"],
)
def test_without_keys_nobody_is_served_through_a_proxy(server, name):
    response = post(server, headers={name: "127.0.0.1"}, prompt=PROMPT)
    assert response.status_code == 401
    assert "VEGA_API_KEYS" in response.json()["error"]


@pytest.mark.parametrize("remote", ["10.0.0.1", "::ffff:8.8.8.8", "2001:db8::1", "", None, "localhost"])
def test_without_keys_only_this_machine_is_served(remote):
    here = {"host": "localhost:8188"}
    assert KeyAuth([]).rejection(here, "127.0.0.1") is None
    assert KeyAuth([]).rejection(here, "::1") is None
    assert "VEGA_API_KEYS" in KeyAuth([]).rejection(here, remote)
    assert KeyAuth(["k"]).rejection({"x-api-key": "k", "X-Forwarded-For": "1.2.3.4"}, remote) is None


def test_without_keys_names_of_proxies_are_known_by_their_kind():
    here = {"host": "localhost:8188"}
    names = (
        "X-Forward-For X-Azure-ClientIP X-Amzn-Trace-Id X-Amz-Cf-Id X-Nginx-Proxy X-Varnish Fly-Region X-Vercel-Id X-Host"
    )
    for name in (*names.split(), "X-Original-Host", "X-Remote-Addr", "Proxy-Connection", "Ngrok-Auth-User-Email"):
        assert KeyAuth([]).rejection({**here, name: "1"}, "127.0.0.1"), name
    browsers = (
        "User-Agent Accept Sec-Fetch-Site Origin Referer DNT Priority X-Client-Id X-Client-Secret X-Request-Id X-Previews"
    )
    assert KeyAuth([]).rejection({**here, **dict.fromkeys(browsers.split(), "1")}, "127.0.0.1") is None


def test_another_site_in_a_browser_is_kept_out_as_the_host_does(server):
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://example.com"}):
        assert post(server, headers=headers, prompt=PROMPT).status_code == 403
    assert post(server, headers={"Origin": server.url}, prompt=PROMPT).status_code == 200
