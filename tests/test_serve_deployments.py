"""Deployments of the API by Ray Serve that each need a start of their own: restarts, other hosts, scaling, a cluster."""

import concurrent.futures
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml
from api_calls import BASE, PROMPT, RT, post, wait_for
from machine_lacks import own_address
from serve_calls import KEY, counted
from serve_processes import hosts, is_loopback, listening

from dev import comfyui, host, serve_api

pytestmark = [pytest.mark.server, pytest.mark.soak]
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        ("2", "what served before goes on: ComfyUI ended with 3"),
        ("1", "nothing serves, and it is tried again until it does"),
    ],
)
def test_a_restart_to_what_does_not_start_ends_nothing(tmp_path, replicas, said):
    with serve_api.serve(tmp_path, "--replicas", replicas) as serving:
        (pack,) = (tmp_path / "custom_nodes").iterdir()
        broken = pack.with_name("broken.py")
        broken.write_text("import os\nos._exit(3)\n", encoding="utf-8")
        before = {process.pid for process in hosts(serving)}
        serving.process.send_signal(signal.SIGHUP)
        wait_for(lambda: said in serving.read_log(), seconds=240)
        if replicas == "2":
            assert post(serving, prompt=PROMPT).status_code == 200
        broken.unlink()
        if replicas == "2":
            serving.process.send_signal(signal.SIGHUP)
        assert post(serving, prompt=PROMPT).status_code == 200
        wait_for(lambda: serving.read_log().count("Vega API on") == 2, seconds=240)
        assert not before & {process.pid for process in hosts(serving)}


def test_a_restart_with_a_broken_file_of_keys_keeps_what_runs(tmp_path):
    keys = tmp_path / "door.key"
    keys.write_text("\ufeff# the door\r\na-key\r\n", encoding="utf-8")
    with serve_api.serve(tmp_path, "--replicas", "1", VEGA_API_KEYS_FILE=str(keys)) as serving:
        before = {process.pid for process in hosts(serving)}
        keys.write_bytes(b"\x89PNG")
        serving.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "nothing is replaced: " in serving.log.read_text(encoding="utf-8"))
        assert post(serving, headers=KEY, prompt=PROMPT).status_code == 200
        assert {process.pid for process in hosts(serving)} == before
        keys.write_text("another\n", encoding="utf-8")
        serving.process.send_signal(signal.SIGHUP)
        wait_for(lambda: post(serving, headers=KEY, prompt="").status_code == 401, seconds=180)
        assert post(serving, headers={"x-api-key": "another"}, prompt=PROMPT).status_code == 200


def test_at_another_host_the_api_listens_and_nothing_of_ray(tmp_path):
    with serve_api.serve(tmp_path, "--replicas", "1", "--host", "0.0.0.0", VEGA_API_KEYS="a-key") as serving:
        beyond = [one for one in listening(serving) if not is_loopback(one[1])]
        assert beyond == [("ray::ProxyActor", "0.0.0.0", serving.port)]
        url = f"http://{own_address()}:{serving.port}/v1/{RT}"
        assert requests.post(url, json={"prompt": PROMPT}, headers=KEY).status_code == 200
        assert requests.post(url, json={"prompt": PROMPT}).status_code == 401


def test_processes_come_with_the_load(tmp_path, server):
    with serve_api.serve(tmp_path, "--replicas", "1", "--most", "2") as running:
        assert len(hosts(running)) == 1
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            loaded = [pool.submit(post, running, BASE, prompt=PROMPT, seed=seed) for seed in range(150)]
            wait_for(lambda: len(hosts(running)) == 2, seconds=240)
            for answer in loaded:
                answer.cancel()
            assert {answer.result().status_code for answer in loaded if not answer.cancelled()} == {200}


def test_the_documented_cluster_serves_on_one_machine(tmp_path, server):
    config = yaml.safe_load((ROOT / "docs" / "cluster" / "serve.yaml").read_text(encoding="utf-8"))
    port = config["http_options"]["port"] = comfyui.free_port()
    replica_app, gateway_app = config["applications"]
    keys = tmp_path / "keys"
    keys.write_text("another\na-key\n", encoding="utf-8")
    for one in (replica_app, gateway_app):
        one["args"] = {"comfyui": str(host.path()), "arguments": comfyui.prepare_base(tmp_path)}
        one["runtime_env"]["env_vars"] = {"PYTHONPATH": str(ROOT), "VEGA_API_KEYS_FILE": str(keys), "HF_HUB_OFFLINE": "1"}
    (gateway,), (replica,) = gateway_app["deployments"], replica_app["deployments"]
    gateway["num_replicas"] = 1
    replica["ray_actor_options"] = {"num_cpus": 1}
    replica["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    machines = yaml.safe_load((ROOT / "docs" / "cluster" / "machines.yaml").read_text(encoding="utf-8"))
    rays = dict(re.findall(r"(RAY_\w+)=(\S+)", machines["head_start_ray_commands"][1]))
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **rays, "PYTHONPATH": str(ROOT)}
    command = [Path(sys.executable).with_name("serve"), "run", tmp_path / "serve.yaml"]
    url = f"http://127.0.0.1:{port}/v1/{RT}"

    def draw(**headers):
        return requests.post(url, json={"prompt": PROMPT, "seed": 3}, headers=headers)

    def answers() -> bool:
        try:
            return draw().status_code == 401
        except requests.ConnectionError:
            return False

    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**environment, **token})
    try:
        wait_for(answers, seconds=180)
        wait_for(lambda: requests.get(f"http://127.0.0.1:{port}/readyz").status_code == 200, seconds=180)
        assert draw(**KEY).content == post(server, prompt=PROMPT, seed=3).content
        assert counted(f"http://127.0.0.1:{port}", "vega_requests_total", code="200") == 1
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
