"""The HTTP API on the running server, over real sockets: what it draws, what it refuses, and what clients do to it."""

import base64
import concurrent.futures
import contextlib
import io
import json
import re
import socket
import threading
import time
import zlib

import graphs
import psutil
import pytest
import requests
from api_calls import BASE, PROMPT, RT, in_base64, long, opened, post, queue, raw, send_and_leave, wait_for
from machine_lacks import lacks
from PIL import Image
from vega_pack.contract import schema
from vega_pack.contract.auth import KeyAuth

from dev import comfyui

KEYS = ("a-first-key", "a-second-kéy", "a-third-key")
REMARK = "of the third floor"
WAITING = 3


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with keys, a short queue and a low limit for bodies."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"# {REMARK}\r\n\r\n {KEYS[2]} \r\n", encoding="utf-16")  # as Windows' Notepad may
    keys = {"VEGA_API_KEYS": ", ".join(KEYS[:2]), "VEGA_API_KEYS_FILE": str(folder / "keys")}
    with comfyui.serve(folder, **keys, VEGA_API_WAITING=str(WAITING), VEGA_API_BODY_MIB="1") as running:
        yield running


@contextlib.contextmanager
def in_a_thread(call, *args, **kwargs):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield pool.submit(call, *args, **kwargs)


def test_the_documented_request_of_the_hosted_api_works(server):
    """As on segmind.com/models/segmind-vega-rt-v1/api, but for the address and a size that a CPU draws soon."""
    data = {
        "prompt": "backlight, wilderness woman hunting in jungle hiding behind leaves",
        "num_inference_steps": 4,
        "seed": 758143278,
        "img_width": 128,
        "img_height": 192,
        "base64": False,
    }
    response = requests.post(f"{server.url}/v1/{RT}", json=data, headers={"x-api-key": "YOUR_API_KEY"})
    image = opened(response)
    assert response.headers["Content-Type"] == "image/jpeg"
    assert (image.format, image.size) == ("JPEG", (128, 192))
    in_json = requests.post(f"{server.url}/v1/{RT}", json={**data, "base64": True}).json()
    assert base64.b64decode(in_json["image"]) == response.content


def test_segminds_own_client_works(server):
    """segmind-py sends numbers as strings and reads a header about credits."""
    numbers = {"samples": "1", "num_inference_steps": "5", "guidance_scale": "7.5", "seed": "3", "img_width": "128"}
    response = post(server, BASE, prompt=PROMPT, negative_prompt="blurry", scheduler="UniPC", base64=False, **numbers)
    assert opened(response).size == (128, 128)
    assert response.headers["X-remaining-credits"]


@pytest.mark.parametrize("seed", [7, 0, 2**64 - 2, 2**64 - 1])
def test_the_picture_is_the_graphs(server, client, seed):
    """The same as the shipped workflow's with this prompt and seed, but that core's SaveImage cuts where we round."""
    (file,) = comfyui.images(client.run(graphs.text_to_image(VegaLCMSampler__seed=seed, CLIPTextEncode__text=PROMPT)))
    expected = Image.open(io.BytesIO(client.download(file))).convert("RGB")
    answer = post(server, prompt=PROMPT, seed=seed, format="png")
    image = opened(answer)
    assert answer.headers["X-Seed"] == str(seed)
    assert {a - b for a, b in zip(image.tobytes(), expected.tobytes(), strict=True)} == {0, 1}
    assert not image.info
    assert not image.getexif()


def test_a_seed_is_a_picture_and_a_random_one_is_told(server):
    first, second = (post(server, prompt=PROMPT) for _ in range(2))
    assert first.content != second.content
    seed = int(first.headers["X-Seed"])
    again = post(server, prompt=PROMPT, seed=seed)
    assert again.content == first.content
    assert float(again.headers["X-Queue-Time"]) >= 0
    assert float(first.headers["X-Model-Time"]) > 0


def test_pictures_drawn_together_have_their_own_seeds(server, client):
    """As the API queues what waits together, beside each seed drawn by its own graph."""
    seeds = [2**64 - 1, 0, 2**64 - 2]
    graph = graphs.text_to_image(CLIPTextEncode__text=PROMPT, EmptyLatentImage__batch_size=3, VegaLCMSampler__seed=0)
    inputs = {"latent_image": [graphs.EMPTY, 0], "seeds": ",".join(map(str, seeds))}
    inputs |= {f"positive_{k}": [graphs.TEXT, 0] for k in (1, 2, 3)}
    graph["batch"] = {"class_type": "VegaTogether", "inputs": inputs}
    graph[graphs.SAMPLER]["inputs"] |= {"positive": ["batch", 0], "latent_image": ["batch", 1]}

    def drawn(graph: dict) -> list[bytes]:
        return [Image.open(io.BytesIO(client.download(file))).tobytes() for file in comfyui.images(client.run(graph))]

    alone = [drawn(graphs.text_to_image(CLIPTextEncode__text=PROMPT, VegaLCMSampler__seed=seed)) for seed in seeds]
    assert drawn(graph) == [picture for (picture,) in alone]


def test_samples_are_pictures_of_consecutive_seeds(server):
    request = dict(prompt=PROMPT, num_inference_steps=3, guidance_scale=2)
    several = post(server, BASE, **request, seed=2**64 - 2, samples=2).json()["image"]
    alone = [post(server, BASE, **request, seed=seed).content for seed in (2**64 - 2, 0)]
    assert [base64.b64decode(picture) for picture in several] == alone


@pytest.mark.parametrize("scheduler", schema.SCHEDULERS)
def test_each_scheduler_draws_with_the_highest_seed(server, scheduler):
    request = dict(prompt=PROMPT, scheduler=scheduler, num_inference_steps=2, img_width=64, img_height=64)
    assert post(server, BASE, **request, seed=2**64 - 2).status_code == 200


def test_less_denoise_keeps_more_of_the_image(server):
    """The less denoise, the closer the picture is to the image."""
    source = opened(post(server, prompt=PROMPT, seed=1, format="png"))
    head = "data:image/png;base64,"

    def distance(denoise):
        drawn = opened(post(server, prompt="snow", seed=5, image=head + in_base64(source), denoise=denoise, format="png"))
        pairs = zip(drawn.tobytes(), source.tobytes(), strict=True)
        return sum(abs(a - b) for a, b in pairs)

    assert distance(0.2) < 0.7 * distance(1)


def test_an_image_is_cut_to_the_size_that_is_asked_for(server):
    image = in_base64(Image.new("RGB", (300, 100), "red"), "WEBP")
    assert opened(post(server, prompt="snow", image=image, img_width=64, img_height=128)).size == (64, 128)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_formats(server, format):
    response = post(server, prompt=PROMPT, seed=2, format=format)
    assert opened(response).format == format.upper()
    assert response.headers["Content-Type"] == f"image/{format}"


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


@pytest.mark.parametrize(
    "prompt", [r"\(title: Infinity\)", "a sad face :" + "(" * 200, "((night:1.3), [desert]:0.8)", "(x:100)"]
)
def test_other_parentheses_are_drawn_as_the_graph_draws_them(server, client, prompt):
    (file,) = comfyui.images(client.run(graphs.text_to_image(VegaLCMSampler__seed=7, CLIPTextEncode__text=prompt)))
    expected = Image.open(io.BytesIO(client.download(file))).convert("RGB").tobytes()
    image = opened(post(server, prompt=prompt, seed=7, format="png"))
    assert {a - b for a, b in zip(image.tobytes(), expected, strict=True)} <= {0, 1}


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


def test_another_site_in_a_browser_is_kept_out_as_the_host_does(server):
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://example.com"}):
        assert post(server, headers=headers, prompt=PROMPT).status_code == 403
    assert post(server, headers={"Origin": server.url}, prompt=PROMPT).status_code == 200


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


def test_a_too_large_body_is_refused(guarded):
    """A body above the limit is 413, whether it is compressed or not."""
    headers = {"x-api-key": KEYS[0]}
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
    headers = {"x-api-key": KEYS[0]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with send_and_leave(guarded, headers=headers, prompt=PROMPT, num_inference_steps=100, img_width=512, img_height=512):
            wait_for(lambda: queue(guarded)[0])
            answers = [pool.submit(post, guarded, headers=headers, prompt="sea", seed=seed) for seed in range(8)]
            wait_for(lambda: sum(answer.done() for answer in answers) == 8 - WAITING - 1)  # one more is with the host
            full = [answer.result() for answer in answers if answer.done()]
            unsent = b"POST /v1/%s HTTP/1.1\r\nx-api-key: %s\r\nContent-Length: 9" % (RT.encode(), KEYS[0].encode())
            assert raw(guarded, unsent).startswith(b"HTTP/1.1 429 ")  # before the body has come
        assert {answer.status_code for answer in full} == {429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in full)
        assert sorted(answer.result().status_code for answer in answers) == [200] * (WAITING + 1) + [429] * len(full)


def test_concurrent_clients_get_their_own_pictures(server):
    request = {seed: dict(prompt=f"{PROMPT}, {'snow' if seed % 2 else 'sea'}", seed=seed) for seed in range(8)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: post(server, **body).content, request.values()))
    alone = [post(server, **body).content for body in request.values()]
    assert together == alone
    assert len(set(alone)) == 8


def test_a_client_that_leaves_is_drawn_no_further(server):
    """A picture whose client has gone away is interrupted.

    PromptQueue.interrupt_if_running; before ComfyUI had it (0.24.1), what the host's own /interrupt does.
    """
    before = server.log.read_text(encoding="utf-8").count("Processing interrupted")
    with send_and_leave(server, prompt=PROMPT, num_inference_steps=100, samples=4):
        wait_for(lambda: queue(server)[0])
    wait_for(lambda: queue(server) == [[], []], seconds=5)
    assert server.log.read_text(encoding="utf-8").count("Processing interrupted") == before + 1


def test_a_client_that_leaves_the_line_is_not_drawn(server):
    """A waiting request whose client has gone away is not drawn, and the one before it is."""
    with in_a_thread(long, server, seed=1) as first:
        wait_for(lambda: queue(server)[0])
        with send_and_leave(server, prompt="nobody waits for this", num_inference_steps=100):
            wait_for(lambda: queue(server)[1])
        wait_for(lambda: not queue(server)[1], seconds=5)
        assert not first.done()
        assert first.result().status_code == 200


def test_waiting_requests_are_one_prompt(server):
    """Requests that wait together are one prompt, and a client that leaves takes only its own out of it."""
    alone = [post(server, prompt=f"{PROMPT}, {k} stars", seed=2**64 - k).content for k in range(1, 4)]

    def prompts():
        return server.log.read_text(encoding="utf-8").count("Prompt executed")

    time.sleep(0.5)  # the host writes its line after the answer
    before = prompts()
    with in_a_thread(long, server, seed=8) as first, concurrent.futures.ThreadPoolExecutor(3) as pool:
        wait_for(lambda: queue(server)[0])
        with in_a_thread(long, server, seed=9, num_inference_steps=3):  # the other prompt that the host takes
            wait_for(lambda: queue(server)[1])
            with send_and_leave(server, RT, prompt="nobody waits for this", seed=5):
                together = [pool.submit(post, server, prompt=f"{PROMPT}, {k} stars", seed=2**64 - k) for k in range(1, 4)]
                wait_for(first.done)
            assert [answer.result().content for answer in together] == alone
    time.sleep(0.5)
    assert prompts() == before + 3


def test_what_somebody_else_interrupts_or_clears_is_drawn_again(server):
    expected = post(server, BASE, prompt=PROMPT, num_inference_steps=30, seed=4).content
    with in_a_thread(long, server, seed=9) as first:
        wait_for(lambda: queue(server)[0])
        with in_a_thread(post, server, BASE, prompt=PROMPT, num_inference_steps=30, seed=4, guidance_scale=9) as second:
            wait_for(lambda: queue(server)[1])
            server.post("/queue", {"clear": True})
            server.post("/interrupt", {})
            assert first.result().status_code == 200
            assert second.result().content == expected


def test_a_persons_graph_comes_in_between(server, client):
    """It waits for the two requests that the host has, and not for those that are queued."""
    ended = []

    def draw(seed):
        long(server, seed=seed, num_inference_steps=20)
        ended.append(seed)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(queue(server)))
    client.run(graphs.text_to_image(VegaLCMSampler__seed=77))
    assert len(ended) <= 3
    for thread in threads:
        thread.join()
    assert len(ended) == 6


def test_nothing_of_a_request_stays_with_the_host(server):
    before = server.get("/history").json().keys()
    post(server, prompt="a secret wish")
    assert server.get("/history").json().keys() == before
    assert "a secret wish" not in server.log.read_text(encoding="utf-8")


def test_the_queue_tells_nobody_how_to_get_a_requests_events(server):
    """Who opens the websocket under the client_id of a prompt gets its events in the other's place."""
    with in_a_thread(long, server, seed=2):
        wait_for(lambda: queue(server)[0])
        told = server.get("/queue").text
    assert PROMPT in told
    assert "client_id" not in told
    assert not re.search(r"\b[0-9a-f]{32}\b", told)


@pytest.mark.server
def test_a_failure_is_explained_in_the_log_under_its_id(tmp_path):
    with comfyui.serve(tmp_path, VEGA_API_MODEL="broken.safetensors") as server:
        response = post(server, prompt=PROMPT)
        assert response.status_code == 503
        log = server.log.read_text(encoding="utf-8")
        assert re.search(rf"{response.json()['id']}.*no model 'broken\.safetensors'", log)
        (server.base / "models" / "checkpoints" / "broken.safetensors").write_bytes(b"not a model")
        response = post(server, prompt=PROMPT, img_width=64, img_height=64)
        assert response.status_code == 503
        answer = response.json()
        log = server.log.read_text(encoding="utf-8")
        assert re.search(rf"{answer['id']}.*broken\.safetensors", log)


@pytest.mark.server
@pytest.mark.soak
def test_wrong_settings_are_told(tmp_path):
    with comfyui.serve(tmp_path, VEGA_API_WAITING="many", VEGA_API_KEYS="hidden", VEGA_API_KEYS_FILE="gone") as server:
        response = post(server, prompt=PROMPT)
        assert response.status_code == 503
        for name in ("VEGA_API_WAITING", "VEGA_API_KEYS_FILE"):
            assert name in response.json()["error"]
        assert "hidden" not in response.text
        log = server.log.read_text(encoding="utf-8")
        assert "VEGA_API_KEYS_FILE: there is no file 'gone'" in log
        assert "Traceback" not in log


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


def test_a_slow_reader_holds_nobody_up(server):
    """A client that reads slowly delays no other, and gets its whole picture."""
    body = dict(prompt=PROMPT, seed=3, num_inference_steps=2, guidance_scale=1, samples=4, format="png", img_width=256)
    expected = post(server, BASE, **body).content
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        content = json.dumps(body).encode()
        head = f"POST /v1/{BASE} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        slow.sendall(head.encode() + content)
        wait_for(lambda: queue(server) != [[], []])
        wait_for(lambda: queue(server) == [[], []])
        assert post(server, prompt=PROMPT).status_code == 200
        assert b"".join(iter(lambda: slow.recv(2**12), b"")).endswith(b"\r\n\r\n" + expected)


@contextlib.contextmanager
def limited(server, name: str, soft: int):
    """The server's process within a limit of the system's, by its name in psutil."""
    process = psutil.Process(server.process.pid)
    if not hasattr(process, "rlimit"):
        lacks("limits that one process sets for another, as Linux has them")
    resource = getattr(psutil, name)
    before = process.rlimit(resource)
    process.rlimit(resource, (soft, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource, before)


def test_a_full_disk_fails_only_who_saves(server, client):
    """On a full disk the API draws on, and a graph that saves gets an error."""
    expected = post(server, prompt=PROMPT, seed=6).content
    with limited(server, "RLIMIT_FSIZE", 0):  # no file can grow
        assert post(server, prompt=PROMPT, seed=6).content == expected
        with pytest.raises(comfyui.PromptError, match="File too large"):
            client.run(graphs.text_to_image(VegaLCMSampler__seed=6))
        assert post(server, prompt="sea").status_code == 200
    client.run(graphs.text_to_image(VegaLCMSampler__seed=6))


def test_a_picture_too_large_for_the_memory_fails_alone(server):
    expected = [post(server, prompt=PROMPT, seed=seed).content for seed in range(3)]
    room = psutil.Process(server.process.pid).memory_info().vms + 2**29
    with limited(server, "RLIMIT_AS", room), concurrent.futures.ThreadPoolExecutor(4) as pool:
        large = pool.submit(post, server, prompt=PROMPT, num_inference_steps=1, img_width=2048, img_height=2048)
        others = [pool.submit(post, server, prompt=PROMPT, seed=seed) for seed in range(3)]
        assert [answer.result().content for answer in others] == expected
        assert large.result().status_code == 500
        id = large.result().json()["id"]
    assert re.search(rf"{id}.*memory", server.log.read_text(encoding="utf-8"))


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


def test_v2_holds_no_more_than_the_line_and_no_larger_body(guarded):
    url, mine = f"{guarded.url}/v2/{BASE}", {"x-api-key": KEYS[0]}
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


def test_the_prompt_of_a_failed_picture_is_in_no_log(server):
    """The prompt of a picture that fails while it is drawn gets into no log."""
    room = psutil.Process(server.process.pid).memory_info().vms + 2**29
    with limited(server, "RLIMIT_AS", room):
        large = dict(num_inference_steps=1, img_width=2048, img_height=2048)
        failed = [post(server, path, prompt="a zebra-secret-9153", **large) for path in (RT, BASE)]
    assert [answer.status_code for answer in failed] == [500, 500]
    for text in (server.log.read_text(encoding="utf-8"), server.get("/internal/logs/raw").text):
        assert all(f"request {answer.json()['id']} failed" in text for answer in failed)
        assert "zebra-secret" not in text
