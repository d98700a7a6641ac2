"""Two replicas of the API by Ray Serve: overloaded, killed in every way, restarted and ended, and nothing lost."""

import asyncio
import concurrent.futures
import signal
import time

import httpx
import psutil
import pytest
import requests
from api_calls import BASE, PROMPT, RT, opened, post, raw, wait_for
from serve_calls import OPERATORS, counted, is_ready, metrics_agree, under_load
from serve_processes import GATEWAY, REPLICA, hosts, named, of_ray

from dev import serve_api
from vega_client import AsyncClient

pytestmark = [pytest.mark.server, pytest.mark.soak]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with serve_api.serve(tmp_path_factory.mktemp("pair"), "--replicas", "2") as running:
        yield running


def test_without_keys_only_a_name_of_this_machine_is_served(pair):
    for name in ("evil.example", f"127.0.0.1.nip.io:{pair.port}", "localhost:a"):
        answer = post(pair, headers={"Host": name}, prompt=PROMPT)
        assert answer.status_code == 401
        assert "set VEGA_API_KEYS" in answer.json()["error"]
        open_to_all = [requests.get(pair.url + path, headers={"Host": name}).status_code for path in OPERATORS]
        assert open_to_all == [200, 401, 401, 401]
    twice = raw(pair, f"POST /v1/{RT} HTTP/1.1\r\nHost: evil.example".encode())  # and that of raw
    assert twice.split()[1] in (b"400", b"401")
    assert post(pair, headers={"Host": "localhost:1"}, prompt=PROMPT).status_code == 200


async def all_at_once(serving, seeds: range) -> list[httpx.Response]:
    without = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=without, timeout=300, trust_env=False) as client:
        url = f"{serving.url}/v1/{RT}"
        return await asyncio.gather(*(client.post(url, json={"prompt": PROMPT, "seed": seed}) for seed in seeds))


def test_what_is_too_much_at_once_is_429_and_counted(pair):
    codes = ("200", "429")
    before = [counted(pair.url, "vega_requests_total", code=code) for code in codes]
    answers = asyncio.run(all_at_once(pair, range(420)))
    found = [[answer.status_code for answer in answers].count(int(code)) for code in codes]
    assert sum(found) == 420 and min(found) > 0
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 429)
    ids = [answer.headers["X-Request-Id"] for answer in answers if answer.status_code == 200]
    wait_for(lambda: [id for id in ids if f"Vega API: {id}: 200" not in pair.read_log()] == [])
    after = [counted(pair.url, "vega_requests_total", code=code) for code in codes]
    assert [now - old for now, old in zip(after, before, strict=True)] == found
    wait_for(lambda: all(metrics_agree(pair, "vega_requests_total", {"code": code}) for code in codes), seconds=40)
    assert counted(pair.url, "vega_queue_depth") == 0


KILLS = {
    "host": lambda serving: hosts(serving)[0].kill(),
    "replica": lambda serving: of_ray(serving, REPLICA)[0].kill(),
    "gateway": lambda serving: of_ray(serving, GATEWAY)[0].kill(),
    "controller": lambda serving: of_ray(serving, "ServeController")[0].kill(),
    "proxy": lambda serving: of_ray(serving, "ProxyActor")[0].kill(),
    "raylet": lambda serving: named(serving, "raylet").kill(),
    "gcs": lambda serving: named(serving, "gcs_server").kill(),
    "agent": lambda serving: of_ray(serving, "DashboardAgent")[0].kill(),
}

OF_ALL = ("proxy", "raylet", "gcs", "agent")  # with the proxy what it has counted goes


async def drawn_while(serving, seeds: range, happens) -> list[bytes]:
    """The pixels that the client gets for each seed; happens is called when it has the first."""
    async with AsyncClient(serving.url) as client:
        asked = [asyncio.create_task(client.generate(PROMPT, seed=seed, format="png")) for seed in seeds]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(happens, serving)
        return [image.tobytes() for image in await asyncio.gather(*asked)]


@pytest.mark.parametrize("kind", KILLS)
def test_no_killed_process_costs_a_picture(pair, server, kind):
    """Whichever process is killed, the client gets all of its pictures."""
    seeds = range(1000, 1030)
    before = [counted(pair.url, "vega_requests_total", **code) for code in ({}, {"code": "200"})]
    drawn = asyncio.run(drawn_while(pair, seeds, KILLS[kind]))
    wanted = [opened(post(server, prompt=PROMPT, seed=seed, format="png")) for seed in seeds]
    assert drawn == [image.tobytes() for image in wanted]
    if kind not in OF_ALL:
        after = [counted(pair.url, "vega_requests_total", **code) for code in ({}, {"code": "200"})]
        assert after == [count + len(seeds) for count in before]
    wait_for(lambda: len(hosts(pair)) == len(of_ray(pair, REPLICA)) == len(of_ray(pair, GATEWAY)) == 2, seconds=120)
    wait_for(lambda: is_ready(pair))


def test_a_worker_killed_under_load_loses_nothing(pair, server):
    supervisor = hosts(pair)[0].parent()
    under_load(pair, server, range(100, 130), lambda: supervisor.parent().send_signal(signal.SIGKILL))
    wait_for(lambda: not psutil.pid_exists(supervisor.pid))
    wait_for(lambda: len(hosts(pair)) == 2, seconds=120)


def test_a_host_that_hangs_is_replaced_and_loses_nothing(pair, server):
    hung = hosts(pair)[0]
    under_load(pair, server, range(200, 230), hung.suspend)
    assert not hung.is_running()


def test_a_rolling_restart_loses_nothing(pair, server):
    """A rolling restart replaces every process, and loses no picture."""
    before = {process.pid for process in hosts(pair)}
    under_load(pair, server, range(300, 330), lambda: pair.process.send_signal(signal.SIGHUP))
    wait_for(lambda: len(hosts(pair)) == 2 and not before & {process.pid for process in hosts(pair)}, seconds=180)
    under_load(pair, server, range(330, 340), lambda: None)


def test_sigterm_ends_what_is_begun_and_takes_no_more(pair, server):
    """The last one of this server."""

    def terminate():
        pair.process.terminate()
        wait_for(lambda: post(pair, prompt=PROMPT).status_code == 503)

    slow = {"num_inference_steps": 100, "img_width": 512, "img_height": 512, "seed": 1}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        drawing = [pool.submit(post, pair, BASE, prompt=PROMPT, **slow) for _ in range(4)]
        time.sleep(1)
        under_load(pair, server, range(400, 408), terminate)
        assert {answer.result().status_code for answer in drawing} == {200}
    pair.process.wait(120)
    assert hosts(pair) == []
