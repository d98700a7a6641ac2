"""Whom the HTTP API serves, and how much: with keys who has one, without keys this machine alone, and no other site.

One server with keys and low limits, for the bytes of a body and the requests that wait, is for all of them, and for
Live Image in its page: what an artist is told who needs a key, and that Enter goes on.
"""

import base64
import concurrent.futures
import json
import zlib

import psutil
import pytest
import requests
import websocket
from api_calls import BASE, PROMPT, RT, post, queue, raw, send_and_leave, wait_for
from live_page import CANVAS, LIVE, STATUS, frame, load, wait_for_frame
from live_sockets import LiveSocket
from machine_lacks import program
from vega_pack.contract.auth import KeyAuth

from dev import browser, comfyui

KEYS = ("a-first-key", "ein-schlüssel-100%", "a-third-key")
REMARK = "of the third floor"
MINE = {"x-api-key": KEYS[0]}
WAITING = 3


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with two keys in its environment and one in a file, a short queue and a low limit for bodies.

    ComfyUI's own check of origins is off.
    """
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"# {REMARK}\r\n\r\n {KEYS[2]} \r\n", encoding="utf-16")  # as Windows' Notepad may
    keys = {"VEGA_API_KEYS": ", ".join(KEYS[:2]), "VEGA_API_KEYS_FILE": str(folder / "keys")}
    limits = {"VEGA_API_WAITING": str(WAITING), "VEGA_API_BODY_MIB": "1"}
    with comfyui.serve(folder, "--enable-cors-header", **keys, **limits) as running:
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


def test_a_too_large_body_is_refused(guarded):
    """A body above the limit is 413, whether it is compressed or not."""
    url, packed_so = f"{guarded.url}/v1/{RT}", {**MINE, "Content-Encoding": "deflate"}
    large = json.dumps({"prompt": "a", "image": "A" * 2**21}).encode()
    assert requests.post(url, data=large, headers=MINE).status_code == 413
    bomb = zlib.compress(b" " * 2**26, 9)
    assert len(bomb) < 2**17
    assert requests.post(url, data=bomb, headers=packed_so).status_code == 413
    packed = zlib.compress(json.dumps({"prompt": PROMPT, "seed": 1}).encode())
    assert requests.post(url, data=packed, headers=packed_so).status_code == 200
    assert requests.post(url, data=b"nothing packed", headers=packed_so).status_code == 400


def test_a_full_line_answers_429_and_serves_who_is_in_it(guarded):
    small = {"num_inference_steps": 1, "img_width": 64, "img_height": 64}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with send_and_leave(guarded, headers=MINE, prompt=PROMPT, num_inference_steps=100, img_width=512, img_height=512):
            wait_for(lambda: queue(guarded)[0])
            answers = [pool.submit(post, guarded, headers=MINE, prompt="sea", seed=seed, **small) for seed in range(8)]
            wait_for(lambda: sum(answer.done() for answer in answers) == 8 - WAITING - 1)  # one more is with the host
            full = [answer.result() for answer in answers if answer.done()]
            unsent = b"POST /v1/%s HTTP/1.1\r\nx-api-key: %s\r\nContent-Length: 9" % (RT.encode(), KEYS[0].encode())
            assert raw(guarded, unsent).startswith(b"HTTP/1.1 429 ")  # before the body has come
        assert {answer.status_code for answer in full} == {429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in full)
        assert sorted(answer.result().status_code for answer in answers) == [200] * (WAITING + 1) + [429] * len(full)


def test_v2_holds_no_more_than_the_line_and_no_larger_body(guarded):
    url, submitted = f"{guarded.url}/v2/{BASE}", []
    while len(submitted) < 100:
        body = {"prompt": PROMPT, "seed": len(submitted), "num_inference_steps": 100}
        answer = requests.post(url, json=body, headers=MINE)
        if answer.status_code != 200:
            break
        submitted.append(answer.json())
    assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (429, True)
    assert WAITING <= len(submitted) <= WAITING + 2
    for told in submitted:
        requests.post(f"{told['response_url']}/cancel", headers=MINE)
    wait_for(lambda: queue(guarded) == [[], []])
    assert requests.post(url, data=b" " * (2**20 + 1), headers=MINE).status_code == 413


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


@pytest.fixture(scope="module")
def page(guarded, tmp_path_factory):
    """ComfyUI's page, of the server with keys."""
    with browser.open_page(guarded, tmp_path_factory.mktemp("profile"), program("chromium")) as page:
        yield page


def test_the_key_is_asked_for(page):
    load(page, "vega_live_paint")
    key, status = page.get_by_label("API key", exact=True), page.locator(STATUS)
    assert not key.is_visible()
    page.locator(LIVE).click()
    status.get_by_text("This server asks for an API key").wait_for()
    page.keyboard.insert_text("ключ")  # the box has the focus
    page.keyboard.press("Enter")
    status.get_by_text("The server does not know this API key").wait_for()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(f" {KEYS[1]} ")
    page.keyboard.press("Enter")
    wait_for_frame(page, 1)
    assert (key.is_visible(), status.inner_text()) == (False, "")
    assert page.evaluate(f"document.activeElement === document.querySelector('{LIVE}')")


def test_a_lost_connection_comes_back_with_the_key(page):
    """The page asks why it was lost, with a key that isn't ASCII."""
    page.evaluate(
        """() => {
            const send = WebSocket.prototype.send
            WebSocket.prototype.send = function (data) {
                window.live_socket = this
                return send.call(this, data)
            }
        }"""
    )
    number = frame(page)
    page.locator(CANVAS).click(position={"x": 40, "y": 40})
    wait_for_frame(page, number + 1)
    page.evaluate("window.live_socket.close()")
    page.locator(STATUS, has_text="connection is lost").wait_for()
    page.locator(STATUS, has_text="connection is lost").wait_for(state="detached")
    browser.poll_page(page, f"() => !document.querySelector('{STATUS}').textContent")  # a picture has come
    assert page.locator(LIVE).get_attribute("data-is-on") == "true"


def test_the_full_screen_page_takes_the_key_too(page):
    link = page.locator(".vega-live a").get_attribute("href")
    with page.context.new_page() as other:
        other.goto(link)
        other.get_by_text("A key goes into the address here, after a comma.").wait_for()
        other.goto("about:blank")
        other.goto(f"{link},{KEYS[1]}")
        other.wait_for_load_state("networkidle")
        page.locator(CANVAS).click(position={"x": 80, "y": 40})  # which is drawn, and shown there
        other.wait_for_function("document.querySelector('p').textContent === '' && document.querySelector('img').src")
    page.locator(LIVE).click()
