"""What Segmind's SDK asks of /v2, on the running server, and what is kept of it and for how long."""

import asyncio
import base64
import concurrent.futures
import types

import pytest
import requests
from api_calls import BASE, PROMPT, RT, long, post, queue, wait_for
from vega_pack.api import async_requests, async_routes
from vega_pack.api.async_requests import AsyncRequest, AsyncRequests
from vega_pack.api.drain import Drain
from vega_pack.api.host_client import PromptError
from vega_pack.api.readiness import Readiness
from vega_pack.api.request_queue import QueueFull, Result
from vega_pack.contract.metrics import Metrics
from vega_pack.images.encode import EncodedImage

STATES = {"QUEUED", "PROCESSING", "COMPLETED", "FAILED"}


def submit(server, model=RT, headers=None, **body) -> dict:
    """What POST /v2 says, as segmind 1.3.0 asks (segmind/v2.py, submit)."""
    answer = requests.post(f"{server.url}/v2/{model}", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["request_id"] and told["status_url"] and told["response_url"]
    return told


def wait(told: dict, headers=None) -> requests.Response:
    """Polls as segmind 1.3.0 does (AsyncJob.wait), but more often: the last answer, of the result or of a failure."""
    while True:
        answer = requests.get(told["status_url"], headers=headers, timeout=60)
        body = answer.json()
        assert (body["status"] in STATES, body["request_id"]) == (True, told["request_id"])
        if body["status"] == "FAILED":
            return answer
        if body["status"] == "COMPLETED":
            return requests.get(told["response_url"], headers=headers, timeout=60)


@pytest.mark.parametrize(("model", "fields"), [(RT, {}), (BASE, {"num_inference_steps": 3, "format": "png"})])
def test_a_submitted_request_gives_the_bytes_of_v1(server, model, fields):
    told = submit(server, model, prompt=PROMPT, seed=5, **fields)
    assert told["status"] == "QUEUED"
    assert told["poll_url"] == told["response_url"] == f"{server.url}/v2/requests/{told['request_id']}"
    result = wait(told).json()
    picture = requests.get(result["output"])
    assert picture.content == post(server, model, prompt=PROMPT, seed=5, **fields).content
    format = fields.get("format", "jpeg")
    assert picture.headers["Content-Type"] == f"image/{format}"
    assert (result["status"], result["seed"]) == ("COMPLETED", "5")
    assert set(result["metrics"]) == {"inference_time", "queue_time", "total_time"}
    (image,) = result["images"]
    assert image == {
        "url": result["output"],
        "content_type": f"image/{format}",
        "file_name": result["output"].rpartition("/")[2],
        "file_size": len(picture.content),
    }


def test_several_pictures_and_base64_are_a_list_and_base64(server):
    fields = {"prompt": PROMPT, "seed": 6, "num_inference_steps": 2, "samples": 2}
    expected = post(server, BASE, **fields).json()["image"]
    told = submit(server, BASE, **fields, base64=True)
    assert wait(told).json()["output"] == expected
    outputs = wait(submit(server, BASE, **fields)).json()["output"]
    assert [base64.b64encode(requests.get(output).content).decode() for output in outputs] == expected


def test_what_v1_refuses_v2_refuses_in_the_same_words(server):
    for body in ({}, {"prompt": "a", "steps": 4}, {"prompt": "a", "image": "no picture"}, {"prompt": "embedding:a"}):
        answers = [requests.post(f"{server.url}/{version}/{RT}", json=body) for version in ("v1", "v2")]
        assert [answer.status_code for answer in answers] == [400, 400]
        assert answers[0].json()["error"] == answers[1].json()["error"]
    assert requests.get(f"{server.url}/v2/{RT}").status_code == 405


@pytest.mark.parametrize("path", ["", "gpt-5.5", "requests", "requests/a", "requests/a/logs", "images", "openapi.json"])
def test_what_is_not_there_is_404_in_json(server, path):
    answer = (
        requests.post(f"{server.url}/v2/{path}", json={}) if path == "gpt-5.5" else requests.get(f"{server.url}/v2/{path}")
    )
    assert answer.status_code == 404
    assert "There is no" in answer.json()["error"]


@pytest.mark.parametrize("path", ["customnode/getlist", "manager/queue/status", f"{RT}/x", "images/a/b"])
def test_paths_of_other_packs_under_v2_are_the_hosts(server, path):
    """ComfyUI-Manager's routes are there."""
    ours, hosts = (requests.get(f"{server.url}/{path}") for path in (f"v2/{path}", "vega/nothing"))
    assert (ours.status_code, ours.content) == (hosts.status_code, hosts.content)
    assert ours.status_code == 404
    assert "X-Request-Id" not in ours.headers


def test_unknown_paths_name_what_there_is(server):
    said = requests.post(f"{server.url}/v2/gpt-5.5", json={}).json()["error"]
    assert all(name in said for name in (f"/v2/{RT}", f"/v2/{BASE}", "/v2/requests/ID/status", "/v2/requests/ID/cancel"))


def test_a_cancelled_request_leaves_the_queue_or_is_interrupted(server):
    """Two in flight, the third queued; the others are drawn."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ahead = pool.submit(long, server, seed=1)
        wait_for(lambda: queue(server)[0])
        running = submit(server, BASE, prompt=PROMPT, num_inference_steps=100, img_width=128, img_height=128, seed=2)
        waiting = submit(server, BASE, prompt=PROMPT, num_inference_steps=100, img_width=128, img_height=128, seed=3)
        assert requests.get(waiting["status_url"]).json()["status"] == "QUEUED"
        assert requests.get(waiting["response_url"]).json()["status"] == "QUEUED"
        assert requests.get(running["status_url"]).json()["status"] == "PROCESSING"
        for told in (waiting, running):
            answer = requests.post(f"{told['response_url']}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "FAILED")
            failed = wait(told)
            assert (failed.status_code, failed.json()["error"]) == (422, "The request was cancelled.")
            assert requests.get(told["response_url"]).status_code == 422
        assert ahead.result().status_code == 200
    wait_for(lambda: queue(server) == [[], []])


def test_a_finished_request_is_not_cancelled(server):
    told = submit(server, prompt=PROMPT, seed=5)
    result = wait(told).json()
    answer = requests.post(f"{told['response_url']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "COMPLETED")
    assert requests.get(result["output"]).status_code == 200


def test_the_addresses_are_those_by_which_a_proxy_was_asked(server, monkeypatch):
    told = submit(server, headers={"Host": f"localhost:{server.port}"}, prompt=PROMPT)
    assert told["status_url"].startswith(f"http://localhost:{server.port}/v2/requests/")

    def of(path="/v2/segmind-vega", match="segmind-vega", **headers):
        request = types.SimpleNamespace(headers=headers, scheme="http", host="vega:1", path=path, match_info={"path": match})
        return async_routes.build_url(request, "requests/a")

    told = {"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "vega.example"}
    assert of(**told) == "https://vega.example/v2/requests/a"
    assert of("/api/v2/segmind-vega") == "http://vega:1/api/v2/requests/a"
    assert of(**{"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "a/b@c"}) == "http://vega:1/v2/requests/a"


class StubService:
    """What of the service a store needs: a queue that executes at once, and its errors' messages."""

    def __init__(self, outcome):
        self.queue, self.drain, self.outcome = self, Drain(), outcome
        self.metrics, self.readiness = Metrics(), Readiness(None)

    async def execute(self, pictures):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return [Result(EncodedImage("png", 1, 1, self.outcome), 0.0, 0.0)]

    def server_error(self, error, id):
        return f"failed: {error}"


def finish_requests(*outcomes) -> tuple[AsyncRequests, list[AsyncRequest]]:
    """What is known when each was submitted and has ended."""

    async def scene():
        store, submitted = AsyncRequests(), []
        for outcome in outcomes:
            submitted.append(AsyncRequest(b"", RT, None, 0, []))
            await store.submit(StubService(outcome), submitted[-1])
        await asyncio.wait([one.task for one in submitted])
        await asyncio.sleep(0.02)
        return store, submitted

    return asyncio.run(scene())


def test_the_oldest_results_go_when_there_are_too_many(monkeypatch):
    monkeypatch.setattr(async_requests, "MAX_RESULTS", 2)
    store, submitted = finish_requests(b"a", PromptError("no"), b"bc")
    assert list(store.requests) == [one.id for one in submitted[1:]]
    assert (submitted[1].error, list(store.images), store.bytes) == ("failed: no", submitted[2].image_names, 2)


def test_the_oldest_results_go_when_too_large(monkeypatch):
    """The oldest results go when all are too large together, but the last one stays."""
    monkeypatch.setattr(async_requests, "MAX_RESULTS_MIB", 2**-18)  # 4 bytes
    store, submitted = finish_requests(b"abc", b"d", b"efgh")
    assert (list(store.requests), store.bytes) == ([submitted[2].id], 4)
    store, submitted = finish_requests(b"abc", b"too large")
    assert (list(store.requests), store.bytes) == ([submitted[1].id], 9)


def test_a_result_ends_by_age(monkeypatch):
    monkeypatch.setattr(async_requests, "RESULT_TTL_SECONDS", 0)
    store, _ = finish_requests(b"abc")
    assert (store.requests, store.images, store.expirations, store.bytes) == ({}, {}, {}, 0)


def test_what_the_queue_does_not_take_is_not_kept():
    async def scene():
        store = AsyncRequests()
        with pytest.raises(QueueFull):
            await store.submit(StubService(QueueFull(3)), AsyncRequest(b"", RT, None, 0, []))
        return store

    store = asyncio.run(scene())
    assert (store.requests, store.expirations) == ({}, {})
