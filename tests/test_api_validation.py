"""What the HTTP API refuses of a request before it is drawn: text of the body, fields, prompts, images, paths, headers."""

import base64
import json

import pytest
import requests
from api_calls import BASE, PROMPT, RT, in_base64, post, queue, raw, send_and_leave, wait_for
from PIL import Image


@pytest.mark.parametrize(
    ("path", "body", "field", "said"),
    [
        (RT, {}, "prompt", "required"),
        (RT, {"prompt": ""}, "prompt", "1 to 10000 characters"),
        (RT, {"prompt": 5}, "prompt", "string"),
        (RT, {"prompt": "a", "num_inference_steps": 11}, "num_inference_steps", "from 1 to 10"),
        (RT, {"prompt": "a", "num_inference_steps": "11"}, "num_inference_steps", "from 1 to 10"),
        (RT, {"prompt": "a", "num_inference_steps": 4.5}, "num_inference_steps", "from 1 to 10"),
        (RT, {"prompt": "a", "num_inference_steps": True}, "num_inference_steps", "from 1 to 10"),
        (RT, {"prompt": "a", "seed": -2}, "seed", "from -1 to 18446744073709551615"),
        (RT, {"prompt": "a", "img_width": 100}, "img_width", "multiple of 8 from 64 to 2048"),
        (RT, {"prompt": "a", "img_height": 2056}, "img_height", "multiple of 8 from 64 to 2048"),
        (RT, {"prompt": "a", "img_height": None}, "img_height", "multiple of 8"),
        (RT, {"prompt": "a", "base64": "no"}, "base64", "boolean"),
        (RT, {"prompt": "a", "format": "gif"}, "format", "jpeg, png, webp"),
        (RT, {"prompt": "a", "steps": 4}, "steps", "no field"),
        (RT, {"prompt": "a", "image": "%%%"}, "image", "base64"),
        (RT, {"prompt": "a", "image": base64.b64encode(b"GIF89a").decode()}, "image", "PNG, JPEG or WEBP"),
        (RT, {"prompt": "a", "image": "data:image/png;base64,"}, "image", "PNG, JPEG or WEBP"),
        (RT, {"prompt": "a", "denoise": 0.5}, None, "only for a request with an image"),
        (BASE, {"prompt": "a", "guidance_scale": 0.5}, "guidance_scale", "from 1 to 25"),
        (BASE, {"prompt": "a", "scheduler": "../x"}, "scheduler", "UniPC"),
        (BASE, {"prompt": "a", "samples": 5}, "samples", "from 1 to 4"),
        (BASE, {"prompt": "a", "seed": 2**64 - 1}, "seed", "from -1 to 18446744073709551614"),
        (RT, {"prompt": "a", "seed": 2**64}, "seed", "from -1 to 18446744073709551615"),
        (RT, {"prompt": "a", "seed": float(2**60)}, "seed", "valid integer"),
        (RT, {"prompt": "a", "seed": "9007199254740993.0"}, "seed", "valid integer"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_may_be(server, path, body, field, said):
    response = post(server, path, **body)
    answer = response.json()
    assert response.status_code == 400
    assert answer.get("field") == field
    assert said in answer["error"]
    assert "\n" not in answer["error"]


EMPHASES = {
    "(title: Infinity)": "'title' has the emphasis inf",
    "a cat (x:nan)": "'x' has the emphasis nan",
    "(a:-inf)": "'a' has the emphasis -inf",
    "(x:1e999)": "'x' has the emphasis inf",
    "(the sea (at dawn:1e30), calm)": "'at dawn' has the emphasis 1e+30",
    "(x:-101)": "-100 to 100 are taken",
    "(" * 5000 + ")" * 5000: "nested more than 50 deep",
    "(" * 900 + "x" + ":1)" * 900: "nested more than 50 deep",
    "(" * 50 + "x" + ")" * 50: "'x' has the emphasis 117.391",
    "a cat, embedding:": "`embedding:` has no name after it",
}


def test_a_prompt_that_cannot_be_drawn_is_refused(server):
    """A prompt that the host can't draw is refused before it waits in the queue."""
    with send_and_leave(server, prompt=PROMPT, num_inference_steps=100, img_width=512, img_height=512):
        wait_for(lambda: queue(server)[0])
        answers = [(post(server, prompt=text), post(server, BASE, prompt="a", negative_prompt=text)) for text in EMPHASES]
        running, waiting = queue(server)
        assert running
        assert not waiting
    for said, pair in zip(EMPHASES.values(), answers, strict=True):
        for answer, field in zip(pair, ("prompt", "negative_prompt"), strict=True):
            assert (answer.status_code, answer.json()["field"]) == (400, field)
            assert answer.json()["error"].startswith(f"{field}: ")
            assert said in answer.json()["error"]
            assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_body_may_be_in_windows_own_text(server, encoding):
    body = {"prompt": "a pink dawn, größer", "seed": 4}
    types = {"Content-Type": f"application/json; charset={encoding.removesuffix('-sig')}"}
    text = json.dumps(body, ensure_ascii=False)
    answer = requests.post(f"{server.url}/v1/{RT}", data=text.encode(encoding), headers=types)
    assert answer.content == post(server, **body).content


def test_a_body_in_another_text_is_refused(server):
    for body in ('{"prompt": "größer"}'.encode("latin-1"), '{"prompt": "a"}'.encode("utf-16")[:-1]):
        answer = requests.post(f"{server.url}/v1/{RT}", data=body)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("The body")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"prompt": "\\ud800"}', b"NaN"])
def test_a_body_that_is_no_object_is_refused(server, body):
    response = requests.post(f"{server.url}/v1/{RT}", data=body)
    assert response.status_code == 400
    assert response.json()["error"].startswith(("The body", "prompt"))


def test_too_large_and_cut_images_are_refused(server):
    """Images that would fill the memory, or that are cut short, are refused."""
    bomb = in_base64(Image.new("1", (12_000, 10_000)))
    assert len(bomb) < 2**16
    response = post(server, prompt="a", image=bomb)
    assert response.status_code == 400
    assert "12000 x 10000 pixels" in response.json()["error"]
    whole = base64.b64decode(in_base64(Image.effect_noise((64, 64), 50)))
    response = post(server, prompt="a", image=base64.b64encode(whole[: len(whole) // 2]).decode())
    assert response.status_code == 400
    assert "damaged" in response.json()["error"]


def test_unknown_paths_and_methods(server):
    for path in ("x", "..%2fprompt", "segmind-vega-rt-v1/", "%2e%2e%2f%2e%2e%2fetc/passwd", "a" * 5000):
        assert requests.post(f"{server.url}/v1/{path}", json={}).status_code == 404
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = requests.request(method, f"{server.url}/v1/{RT}")
        assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert requests.post(f"{server.url}/v1/openapi.json").status_code == 405


@pytest.mark.parametrize(
    "injected",
    [
        b"X-Request-Id: a\nSet-Cookie: b=1",
        b"X-Request-Id: a\rSet-Cookie: b=1",
        b"X-Request-Id: a\x00b",
        b"X Request-Id: a",
        b"Content-Length: 4\r\nContent-Length: 40",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
        b"X-Request-Id: " + b"a" * 2**17,
    ],
)
def test_headers_that_mean_two_things_are_refused(server, injected):
    answer = raw(server, b"POST /v1/%s HTTP/1.1\r\n%s" % (RT.encode(), injected), b'{"prompt": "a"}')
    assert answer.startswith(b"HTTP/1.1 400 ") or answer.startswith(b"HTTP/1.0 400 ")
    assert b"Set-Cookie: " not in answer.partition(b"\r\n\r\n")[0]
    assert server.get("/queue").json() == {"queue_running": [], "queue_pending": []}


def test_what_a_request_says_gets_into_no_header(server):
    hostile = "a\r\nSet-Cookie: b=1\r\n\r\n"
    for body in ({"prompt": hostile}, {"prompt": "a", hostile: 1}, {"prompt": "a", "format": hostile}):
        response = post(server, **body)
        assert "Set-Cookie" not in response.headers
        assert "\n" not in response.headers.get("X-Seed", "")
