"""What operators rely on: the routes that need no key, from another address of this machine too, SIGTERM, short pauses."""

import asyncio
import concurrent.futures
import signal
import socket
import sys
import time
from pathlib import Path

import graphs
import pytest
import relay
import requests
from api_calls import BASE, PROMPT, RT, opened, post, queue, send_and_leave, wait_for
from machine_lacks import own_address
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from vega_pack.api.host_client import PromptError
from vega_pack.api.readiness import RETRY_AFTER_SECONDS, Readiness

from dev import comfyui
from vega_client import Client

ROUTES = ("/healthz", "/readyz", "/metrics", "/v1/models")
LABELS = ("path", "code")
KEY = {"x-api-key": "a key"}
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# Another pack, which tells what a garbage collection looks at.
PROBE = """
import gc
from aiohttp import web
from server import PromptServer

@PromptServer.instance.routes.get("/probe")
async def probe(request):
    return web.json_response({"left out": gc.get_freeze_count(), "looked at": len(gc.get_objects())})

NODE_CLASS_MAPPINGS = {}
"""


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """With a key, at this machine's other address, too, and beside another pack."""
    base, listen = tmp_path_factory.mktemp("keyed"), ["--listen", f"127.0.0.1,{own_address()}"]
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "probe.py").write_text(PROBE, encoding="utf-8")
    with comfyui.serve(base, *listen, VEGA_API_KEYS=KEY["x-api-key"]) as running:
        yield running


def measured(server) -> dict[tuple[str, ...], float]:
    """(sample's name, its path and its code, where it has them) -> value."""
    text = requests.get(f"{server.url}/metrics", headers={"Accept": OPEN_METRICS}).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(s.labels[label] for label in LABELS if label in s.labels)): s.value for s in samples}


def depth(server) -> float:
    return measured(server)[("vega_queue_depth",)]


def handles_sigterm(server) -> bool:
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught & 1 << signal.SIGTERM - 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only there /proc tells it")
def test_sigterm_is_left_alone_where_nobody_uses_the_api(keyed):
    """The first test here, as the others use it."""
    assert requests.get(f"{keyed.url}/healthz").status_code == 200
    assert not handles_sigterm(keyed)
    assert requests.get(f"{keyed.url}/v1/models").status_code == 200
    assert handles_sigterm(keyed)


def test_it_is_ready_when_it_has_drawn_its_first_picture(keyed):
    first = requests.get(f"{keyed.url}/readyz")
    assert (first.status_code, first.headers["Retry-After"]) == (503, str(RETRY_AFTER_SECONDS))
    assert "first picture is being drawn" in first.json()["error"]
    wait_for(lambda: requests.get(f"{keyed.url}/readyz").status_code == 200, seconds=120)
    assert requests.get(f"{keyed.url}/readyz").json() == {"status": "ready"}
    assert queue(keyed) == [[], []]
    assert not keyed.get("/history").json()


def test_modules_are_left_out_of_collections(keyed):
    """Half a million objects, after a picture as well: what is looked at is a tenth of that.

    ComfyUI's garbage collections between prompts leave out what was imported at the start.
    """
    with keyed.connect() as client:
        client.run(graphs.text_to_image())
    objects = keyed.get("/probe").json()
    assert objects["left out"] > 200_000
    assert objects["looked at"] < objects["left out"] / 3


def test_somebodys_picture_makes_it_ready_as_well(server):
    """No other test asks this server whether it is."""
    opened(post(server, prompt=PROMPT, num_inference_steps=1, img_width=64, img_height=64))
    assert requests.get(f"{server.url}/readyz").status_code == 200


def test_a_failed_first_picture_is_tried_again(caplog):
    """A first picture that fails is told, and tried again later."""
    outcomes = [PromptError("no such model", "load"), RuntimeError("no memory"), None]

    async def warm_up():
        if error := outcomes.pop(0):
            raise error

    async def check(readiness: Readiness, id: str):
        """What is said at once, and when the picture has been tried."""
        at_once = readiness.check(id)
        await asyncio.sleep(0.01)
        return at_once, readiness.check("another")

    async def scene():
        readiness = Readiness(warm_up)
        for id in ("one", "two"):
            at_once, (why, seconds) = await check(readiness, id)
            assert at_once == ("The first picture is being drawn", RETRY_AFTER_SECONDS)
            assert why == f"The first picture could not be drawn; the server's log says why under {id}"
            assert 1 <= seconds <= 10
            assert len(outcomes) == (2 if id == "one" else 1)  # a look too early draws nothing
            readiness.next_attempt = 0.0  # as if the time had passed
        assert (await check(readiness, "three"))[1] is None

    asyncio.run(scene())
    assert "request one: the first picture failed: no such model" in caplog.text
    assert "request two: the first picture failed: no memory" in caplog.text


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("path", ROUTES)
def test_no_key_is_needed_from_any_address(keyed, path, prefix):
    """Host is an address there, as Prometheus sends it."""
    for url in (keyed.url, f"http://{own_address()}:{keyed.port}"):
        answer = requests.get(url + prefix + path, headers={"Via": "1.1 proxy"})
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
        head = requests.head(url + prefix + path)
        assert (head.status_code, head.content) == (200, b"")
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            refused = requests.request(method, url + prefix + path, json={})
            assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
            assert refused.json()["error"] == f"{method} is not for this path; GET and HEAD are."
    assert requests.get(f"{keyed.url}/v1/openapi.json").status_code == 401


def test_the_models_are_those_that_can_be_asked(keyed):
    listed = requests.get(f"{keyed.url}/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [RT, BASE]
    for model in listed["data"]:
        assert model["root"] == "vega-nano (embedded)"
        small = {"prompt": PROMPT, "num_inference_steps": 1, "img_width": 64, "img_height": 64}
        opened(post(keyed, model["id"], KEY, **small))
    assert "/v1/models" in requests.get(f"{keyed.url}/v1/openapi.json", headers=KEY).json()["paths"]


def test_each_request_is_counted_once(keyed):
    before = measured(keyed)
    small = {"prompt": PROMPT, "num_inference_steps": 1, "img_width": 64, "img_height": 64}
    ids = [{**KEY, "X-Request-Id": f"count-{k}"} for k in range(3)]
    assert post(keyed, RT, ids[0], **small).status_code == 200
    assert post(keyed, BASE, ids[1], **small, samples=2).status_code == 200
    assert post(keyed, RT, ids[2], **small, seed="odd").status_code == 400
    assert post(keyed, "nothing", KEY, **small).status_code == 404
    assert post(keyed, RT, **small).status_code == 401
    assert requests.get(f"{keyed.url}/v1/openapi.json", headers=KEY).status_code == 200
    submitted = requests.post(f"{keyed.url}/v2/{BASE}", json={**small, "samples": 2}, headers=KEY).json()
    wait_for(lambda: requests.get(submitted["status_url"], headers=KEY).json()["status"] == "COMPLETED")
    with send_and_leave(keyed, RT, KEY, **{**small, "num_inference_steps": 10, "img_width": 2048}):
        wait_for(lambda: depth(keyed) == 1)
    wait_for(lambda: depth(keyed) == 0)
    counted = {sample: more for sample, now in measured(keyed).items() if (more := now - before.get(sample, 0))}
    rt, base, document = (f"/v1/{name}" for name in (RT, BASE, "openapi.json"))
    expected = {(rt, "200"): 1, (base, "200"): 1, (rt, "400"): 1, (rt, "499"): 1, (document, "200"): 1}
    expected |= {("other", "404"): 1, ("other", "401"): 1, (f"/v2/{BASE}", "200"): 1}
    others = ("other", "200")  # status of /v2, as often as it was asked
    found = {sample[1:]: n for sample, n in counted.items() if sample[0] == "vega_requests_total" and sample[1:] != others}
    assert found == expected
    images = {(rt,): 1, (base,): 2, (f"/v2/{BASE}",): 2}
    assert {sample[1:]: n for sample, n in counted.items() if sample[0] == "vega_images_total"} == images
    assert counted[("vega_latency_seconds_count", rt)] == 3


def test_a_latency_names_a_request(keyed):
    """A latency has the id of a request as its exemplar, where the reader understands it."""
    headers = {**KEY, "X-Request-Id": "exemplary-1"}
    assert post(keyed, RT, headers, prompt=PROMPT, num_inference_steps=1).status_code == 200
    told = requests.get(f"{keyed.url}/metrics", headers={"Accept": f"{OPEN_METRICS};q=0.9,text/plain;q=0.5"})
    assert told.headers["Content-Type"].startswith(OPEN_METRICS)
    samples = [sample for family in text_string_to_metric_families(told.text) for sample in family.samples]
    assert "exemplary-1" in {sample.exemplar.labels["request_id"] for sample in samples if sample.exemplar}
    plain = requests.get(f"{keyed.url}/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert "exemplary-1" not in plain.text
    assert "vega_requests_total{" in plain.text


def unfinished(server) -> socket.socket:
    """A request whose body never comes."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/{RT} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: {KEY['x-api-key']}\r\nContent-Length: 99\r\n\r\n{{"
    connection.sendall(head.encode())
    return connection


def test_sigterm_finishes_what_has_begun(keyed, server):
    """SIGTERM lets what has begun end, and the client goes to the server that comes after.

    The last test here: it ends the server.
    """
    network, http = relay.Relay(keyed.port), requests.Session()
    with concurrent.futures.ThreadPoolExecutor() as pool, http, unfinished(keyed):
        assert http.get(f"{keyed.url}/healthz").status_code == 200  # and the connection stays open
        asked = [(BASE, {"num_inference_steps": 40, "img_width": 128, "img_height": 128})] + [
            (RT, {"seed": seed}) for seed in range(4)
        ]
        pictures = [pool.submit(post, keyed, model, KEY, prompt=PROMPT, **fields) for model, fields in asked]
        submitted = requests.post(f"{keyed.url}/v2/{RT}", json={"prompt": PROMPT, "seed": 4}, headers=KEY).json()
        wait_for(lambda: depth(keyed) == len(asked) + 1)
        keyed.process.send_signal(signal.SIGTERM)
        wait_for(lambda: requests.get(f"{keyed.url}/readyz").status_code == 503)
        refused = post(keyed, RT, KEY, prompt=PROMPT)
        assert (refused.status_code, refused.headers["Retry-After"], refused.headers["Connection"]) == (503, "2", "close")
        assert "being stopped" in refused.json()["error"]
        assert requests.get(f"{keyed.url}/healthz").status_code == 200
        with Client(f"http://127.0.0.1:{network.port}", KEY["x-api-key"]) as client:
            late = pool.submit(client.generate, PROMPT, seed=1, format="png")
            wait_for(lambda: measured(keyed)[("vega_requests_total", f"/v1/{RT}", "503")] > 1)
            assert all(opened(picture.result()).width for picture in pictures)
            wait_for(lambda: requests.get(submitted["status_url"], headers=KEY).json()["status"] == "COMPLETED")
            time.sleep(1)  # as Segmind's SDK does between two questions
            fetched = requests.get(submitted["response_url"], headers=KEY).json()
            assert requests.get(fetched["output"]).headers["Content-Type"] == "image/jpeg"
            assert keyed.process.wait(30) == -signal.SIGTERM
            network.target = server.port  # as if it had been started again
            drawn = late.result()
        network.close()
    assert drawn.tobytes() == opened(post(server, prompt=PROMPT, seed=1, format="png")).tobytes()
    assert "SIGTERM: what has begun (6 requests) is finished first" in keyed.log.read_text(encoding="utf-8")
