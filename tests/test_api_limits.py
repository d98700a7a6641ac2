"""What the HTTP API takes at most: bytes of a body, and requests that wait."""

import concurrent.futures
import json
import zlib

import pytest
import requests
from api_calls import BASE, PROMPT, RT, post, queue, raw, send_and_leave, wait_for

from dev import comfyui

KEY = "a-key"
WAITING = 3


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a key, a short queue and a low limit for bodies."""
    limits = {"VEGA_API_WAITING": str(WAITING), "VEGA_API_BODY_MIB": "1"}
    with comfyui.serve(tmp_path_factory.mktemp("guarded"), VEGA_API_KEYS=KEY, **limits) as running:
        yield running


def test_a_too_large_body_is_refused(guarded):
    """A body above the limit is 413, whether it is compressed or not."""
    headers = {"x-api-key": KEY}
    url = f"{guarded.url}/v1/{RT}"
    large = json.dumps({"prompt": "a", "image": "A" * 2**21}).encode()
    assert requests.post(url, data=large, headers=headers).status_code == 413
    bomb = zlib.compress(b" " * 2**28, 9)
    assert len(bomb) < 2**19
    response = requests.post(url, data=bomb, headers={**headers, "Content-Encoding": "deflate"})
    assert response.status_code == 413
    packed = zlib.compress(json.dumps({"prompt": PROMPT, "seed": 1}).encode())
    assert requests.post(url, data=packed, headers={**headers, "Content-Encoding": "deflate"}).status_code == 200
    broken = requests.post(url, data=b"nothing packed", headers={**headers, "Content-Encoding": "deflate"})
    assert broken.status_code == 400


def test_a_full_line_answers_429_and_serves_who_is_in_it(guarded):
    headers = {"x-api-key": KEY}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with send_and_leave(guarded, headers=headers, prompt=PROMPT, num_inference_steps=100, img_width=512, img_height=512):
            wait_for(lambda: queue(guarded)[0])
            answers = [pool.submit(post, guarded, headers=headers, prompt="sea", seed=seed) for seed in range(8)]
            wait_for(lambda: sum(answer.done() for answer in answers) == 8 - WAITING - 1)  # one more is with the host
            full = [answer.result() for answer in answers if answer.done()]
            unsent = b"POST /v1/%s HTTP/1.1\r\nx-api-key: %s\r\nContent-Length: 9" % (RT.encode(), KEY.encode())
            assert raw(guarded, unsent).startswith(b"HTTP/1.1 429 ")  # before the body has come
        assert {answer.status_code for answer in full} == {429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in full)
        assert sorted(answer.result().status_code for answer in answers) == [200] * (WAITING + 1) + [429] * len(full)


def test_v2_holds_no_more_than_the_line_and_no_larger_body(guarded):
    url, mine = f"{guarded.url}/v2/{BASE}", {"x-api-key": KEY}
    submitted = []
    while len(submitted) < 100:
        body = {"prompt": PROMPT, "seed": len(submitted), "num_inference_steps": 100}
        answer = requests.post(url, json=body, headers=mine)
        if answer.status_code != 200:
            break
        submitted.append(answer.json())
    assert (answer.status_code, int(answer.headers["Retry-After"]) >= 1) == (429, True)
    assert WAITING <= len(submitted) <= WAITING + 2
    for told in submitted:
        requests.post(f"{told['response_url']}/cancel", headers=mine)
    wait_for(lambda: queue(guarded) == [[], []])
    assert requests.post(url, data=b" " * (2**20 + 1), headers=mine).status_code == 413
