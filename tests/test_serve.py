"""The API by Ray Serve: real processes, killed in every way, and nothing lost."""

import concurrent.futures
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import comfyui
import host
import psutil
import pytest
import requests

ROOT = Path(__file__).resolve().parents[1]
RT = "/v1/segmind-vega-rt-v1"
PROMPT = "night, desert, full moon"


class Serving:
    def __init__(self, process: subprocess.Popen, port: int, metrics: int, log: Path):
        self.process, self.metrics, self.log = process, metrics, log
        self.url = f"http://127.0.0.1:{port}"

    def draw(self, seed: int, headers=None, **body) -> requests.Response:
        return requests.post(self.url + RT, json={"prompt": PROMPT, "seed": seed, **body}, headers=headers, timeout=300)

    def hosts(self) -> list[psutil.Process]:
        """The ComfyUI processes, under their leashes."""
        found = psutil.process_iter(["cmdline"])
        parents = [process for process in found if str(self.log.parent) in " ".join(process.info["cmdline"] or [])]
        return [process for process in parents if process.info["cmdline"][1].endswith("main.py")]


@contextlib.contextmanager
def serving(base: Path, replicas: int, **settings: str):
    base.mkdir(exist_ok=True)
    port, metrics, log = comfyui.free_port(), comfyui.free_port(), base / "serve.log"
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), "--replicas", str(replicas)]
    command += ["--port", str(port), "--metrics-port", str(metrics), *comfyui.prepare(base)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", **settings}
    with log.open("w") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, env=environment)
    try:
        end = time.monotonic() + 180
        while "Vega API on" not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield Serving(process, port, metrics, log)
    finally:
        process.terminate()
        process.wait(150)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served"), replicas=1, VEGA_API_KEYS="a-key") as running:
        yield running


KEY = {"x-api-key": "a-key"}


def test_the_contract_is_one_servers(served, server):
    answer = served.draw(3, KEY)
    expected = requests.post(server.url + RT, json={"prompt": PROMPT, "seed": 3})
    assert answer.content == expected.content
    assert answer.headers["X-Seed"] == "3"
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert served.draw(3).status_code == 401
    assert served.draw(3, KEY, img_width=65).json()["field"] == "img_width"
    paths = [requests.get(f"{url}/v1/openapi.json", headers=KEY).json() for url in (served.url, server.url)]
    assert paths[0] == paths[1]


def test_a_host_killed_under_load_loses_nothing(served):
    alone = {seed: served.draw(seed, KEY).content for seed in range(100, 106)}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = {seed: pool.submit(served.draw, seed + 10**6, KEY) for seed in range(6)}
        time.sleep(0.3)
        (process,) = served.hosts()
        process.kill()
        assert {answer.result().status_code for answer in answers.values()} == {200}
    assert {seed: served.draw(seed, KEY).content for seed in alone} == alone


def test_metrics_are_prometheus(served):
    served.draw(5, KEY)
    end = time.monotonic() + 40
    while True:
        text = requests.get(f"http://127.0.0.1:{served.metrics}/metrics").text
        if re.search(r'vega_requests_total\{.*code="200".*path="segmind-vega-rt-v1"', text) and "vega_images_total" in text:
            break
        assert time.monotonic() < end, text[:500]
        time.sleep(1)
    assert "vega_latency_seconds_bucket" in text
    assert "vega_queue_depth" in text


def test_without_keys_it_serves_this_machine_alone(tmp_path):
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), "--host", "0.0.0.0"]
    environment = {name: value for name, value in os.environ.items() if name != "VEGA_API_KEYS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode
    assert "VEGA_API_KEYS" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.soak
def test_a_worker_killed_under_load_loses_nothing_and_sigterm_drains(tmp_path):
    with serving(tmp_path / "two", replicas=2) as running:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(running.draw, seed) for seed in range(16)]
            time.sleep(0.5)
            leash = running.hosts()[0].parent()
            leash.parent().send_signal(signal.SIGKILL)  # the Ray worker; its host must end with it
            assert {answer.result().status_code for answer in answers} == {200}
        assert not psutil.pid_exists(leash.pid)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(running.draw, seed) for seed in range(50, 54)]
            time.sleep(0.3)
            running.process.terminate()
            assert {answer.result().status_code for answer in answers} == {200}
        running.process.wait(120)
        assert running.hosts() == []
