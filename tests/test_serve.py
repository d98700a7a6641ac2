"""The API by Ray Serve: its contract, errors, metrics and closed ports; all share one start of Ray, so one file."""

import contextlib
import hashlib
import http.client
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests
from api_calls import BASE, PROMPT, RT, in_base64, post, raw, send_and_leave, wait_for
from machine_lacks import own_address
from PIL import Image
from ray_access import called, ray_token, tables
from serve_calls import KEY, OPERATORS, at_the_port, counted, is_ready, metrics_agree, under_load
from serve_processes import GATEWAY, REPLICA, hosts, is_loopback, listening, of_ray, processes

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[1]


def test_the_contract_is_one_servers(served, server):
    answer = post(served, headers=KEY, prompt=PROMPT, seed=3)
    assert answer.content == post(server, prompt=PROMPT, seed=3).content
    assert answer.headers["X-Seed"] == "3"
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert post(served, prompt=PROMPT).status_code == 401
    assert post(served, headers={"x-api-key": "ein-schlüssel".encode()}, prompt=PROMPT).status_code == 200
    assert post(served, headers=KEY, prompt=PROMPT, img_width=65).json()["field"] == "img_width"
    paths = [requests.get(f"{url}/v1/openapi.json", headers=KEY).json() for url in (served.url, server.url)]
    assert paths[0] == paths[1]
    for path in ("/queue", "/v1/..%2fqueue", "/v1/%2e%2e/queue", "/v1//queue", "/v1/segmind-vega/../../queue", "/docs"):
        assert raw(served, f"GET {path} HTTP/1.1\r\nx-api-key: a-key".encode()).startswith(b"HTTP/1.1 404 "), path
    assert post(served, headers={**KEY, "X-Forwarded-For": "10.0.0.1"}, prompt=PROMPT).status_code == 200


def test_bodies_origins_and_lost_clients(served):
    """Bodies, origins and lost clients are treated as by one server."""
    large = in_base64(Image.effect_noise((1200, 1200), 100))
    assert post(served, headers=KEY, prompt=PROMPT, image=large).status_code == 413
    for origin, status in (("https://example.com", 403), (served.url, 200)):
        assert post(served, headers={**KEY, "Origin": origin}, prompt=PROMPT).status_code == status
    began = time.monotonic()
    with send_and_leave(served, BASE, KEY, prompt=PROMPT, num_inference_steps=100, samples=4, img_width=512, img_height=512):
        time.sleep(0.5)  # by now it is drawn
    assert post(served, headers=KEY, prompt=PROMPT).status_code == 200
    assert time.monotonic() - began < 20  # what the other had asked for takes minutes


def test_comfyui_cannot_import_the_packs_rooms(served, operators_path, tmp_path):
    """In its environment the pack's root isn't on PYTHONPATH, as Ray's processes have it; the operator's entry is."""
    environment = hosts(served)[0].environ()
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {path.stem for path in ROOT.glob("[!_]*.py")}
    assert {"nodes", "serve", "vega", "extension"} <= rooms
    code = "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
    command = [sys.executable, "-c", code, *rooms]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert environment["PYTHONPATH"] == str(operators_path)


def test_a_host_killed_under_load_loses_nothing(served, server):
    """A host that is killed under load loses no picture, and is not ready meanwhile."""

    def kill():
        (process,) = hosts(served)
        process.kill()
        wait_for(lambda: not is_ready(served))
        assert requests.get(f"{served.url}/readyz").headers["Retry-After"]

    under_load(served, server, range(6), kill, KEY)
    assert is_ready(served)


def test_a_replica_too_busy_to_say_so_is_ready(served):
    """After two seconds the gateway asks Ray Serve's controller."""
    slow = {"prompt": PROMPT, "num_inference_steps": 100, "samples": 4, "img_width": 512, "img_height": 512}
    answers = []

    def is_busy() -> bool:
        answers.append(requests.get(f"{served.url}/readyz"))
        return answers[-1].elapsed.total_seconds() > 2

    with contextlib.ExitStack() as leaving:
        for _ in range(10):  # a replica has at most eight
            leaving.enter_context(send_and_leave(served, BASE, KEY, **slow))
        wait_for(is_busy)
    assert {answer.status_code for answer in answers} == {200}


def test_a_gateway_killed_under_load_loses_nothing(served, server):
    under_load(served, server, range(10, 16), lambda: of_ray(served, GATEWAY)[0].kill(), KEY)


JSON = {"Content-Type": "application/json", **KEY}


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", f"/v1/{RT}", {}, b"{}", 401),
        ("POST", f"/v1/{RT}", {**JSON, "Origin": "https://example.com"}, b"{}", 403),
        ("GET", "/v1/nothing", KEY, b"", 404),
        ("GET", "/-/routes", {}, b"", 404),
        ("POST", f"/v1/{RT}", JSON, b"a" * 2**21, 413),
        ("POST", "/healthz", {}, b"", 405),
        ("POST", "/readyz", {}, b"", 405),
        ("PUT", "/metrics", {}, b"", 405),
        ("PROPFIND", "/v1/models", {}, b"", 405),
    ],
)
def test_every_error_is_the_documented_json(served, method, path, headers, body, status):
    """Every error that is made here is the documented JSON with the request's id."""
    for given in ("of.the-client:1", "not one\xff", None):
        named = {**headers, **({"X-Request-Id": given.encode("latin-1")} if given else {})}
        answer = requests.request(method, served.url + path, headers=named, data=body)
        assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (status, "application/json")
        said = answer.json()
        assert said["error"].endswith(".")
        assert said["id"] == answer.headers["X-Request-Id"]
        assert (said["id"] == given) == (given == "of.the-client:1")
        assert re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", said["id"])


def test_what_uvicorn_answers_by_itself_is_json_too(served):
    """Its AutoHTTPProtocol.send_400_response; and its ws_protocol_class, without which there are no websockets."""
    for head in (b"no HTTP", b"GET /\xff HTTP/1.1", f"POST /v1/{RT} HTTP/1.1\r\nContent-Length: a".encode()):
        answer, _, body = raw(served, head).partition(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n")
        assert json.loads(body)["id"] in answer.decode()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "1", **KEY}
    answer = requests.get(f"{served.url}/ws", headers=upgrade)
    assert (answer.status_code, set(answer.json())) == (404, {"error", "id"})


@pytest.mark.parametrize(
    "header",
    [
        "X-Request-Timeout-Seconds",
        "X-Request-Disconnect-Disabled",
        "X-Session-Id",
        "serve_multiplexed_model_id",
        "Traceparent",
    ],
)
def test_headers_that_ray_would_obey_change_nothing(served, header):
    small = {"prompt": PROMPT, "num_inference_steps": 1, "img_width": 64, "img_height": 64}
    for value in ("0.0001", "?1", "\xff"):
        assert post(served, headers={**KEY, header: value.encode("latin-1")}, **small).status_code == 200


def test_headers_that_both_servers_write_come_once(served):
    head = f"POST /v1/{RT} HTTP/1.1\r\nx-api-key: a-key\r\nX-Request-Id: mine\r\nContent-Length: 2".encode()
    names = [line.split(b":")[0].lower() for line in raw(served, head, b"{}").split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert sorted(names) == sorted(set(names))
    assert {b"date", b"server", b"x-request-id"} <= set(names)


def test_operators_need_no_key(served):
    for path in (*OPERATORS, "/-/healthz"):
        answer = requests.get(served.url + path, headers={"X-Forwarded-For": "10.0.0.1"})
        assert answer.status_code == 200, path
        assert answer.headers["X-Request-Id"]
        head = requests.head(served.url + path)
        assert (head.status_code, head.content) == (200, b"")
    models = requests.get(f"{served.url}/v1/models").json()["data"]
    assert [model["id"] for model in models] == [RT, BASE]
    exemplars = requests.get(f"{served.url}/metrics", headers={"Accept": "application/openmetrics-text"})
    assert exemplars.headers["Content-Type"].startswith("application/openmetrics-text")
    assert 'request_id="' in exemplars.text


def test_preflights_and_heads_are_as_one_servers(served, server):
    for running in (served, server):
        preflight = requests.options(f"{running.url}/v1/{RT}")
        assert (preflight.status_code, preflight.content) == (200, b"")
        head = requests.head(f"{running.url}/v1/{RT}", headers=KEY)
        assert (head.status_code, head.headers["Allow"]) == (405, "POST")
        assert head.headers["Content-Type"].startswith("application/json")


def test_a_client_that_closes_its_half_is_answered(served):
    """By way of uvicorn's HttpToolsProtocol.eof_received and its cycle, which tell of a body that is cut short, too."""
    content = json.dumps({"prompt": PROMPT, "num_inference_steps": 40}).encode()  # for seconds
    head = f"POST /v1/{BASE} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: a-key\r\nContent-Length: {len(content)}\r\n\r\n"
    for sent, status in ((content, 200), (content[:5], 400)):
        with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
            connection.sendall(head.encode() + sent)
            connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection)
            answer.begin()  # passes 100 Continue over
            assert answer.status == status
            assert (json.loads(answer.read())["error"] == "The body is cut short.") if status == 400 else answer.read()


def test_metrics_are_prometheus(served):
    asked = [
        ("vega_images_total", {"path": "/v1/segmind-vega"}, 2),
        ("vega_requests_total", {"path": "/v1/segmind-vega", "code": "200"}, 1),
        ("vega_requests_total", {"path": "/v1/segmind-vega-rt-v1", "code": "400"}, 1),
        ("vega_requests_total", {"path": "other", "code": "404"}, 1),
        ("vega_latency_seconds_count", {"path": "/v1/segmind-vega"}, 1),
    ]
    before = [counted(served.url, name, **labels) for name, labels, _ in asked]
    post(served, BASE, KEY, prompt=PROMPT, samples=2, num_inference_steps=2)
    post(served, headers=KEY, prompt="")
    post(served, "nothing", KEY)
    for (name, labels, more), old in zip(asked, before, strict=True):
        assert counted(served.url, name, **labels) == old + more
        wait_for(lambda name=name, labels=labels: metrics_agree(served, name, labels), seconds=40)
    assert counted(served.url, "vega_queue_depth") == counted(at_the_port(served), "vega_queue_depth") == 0


def test_v2_is_not_there_and_says_what_is(served):
    """Segmind's SDK shows its user the sentence."""
    for path in ("v2/segmind-vega-rt-v1", "v2/requests/a/status", "v2", "v2/"):
        answer = requests.post(f"{served.url}/{path}", json={"prompt": PROMPT}, headers=KEY)
        assert answer.status_code == 404
        assert all(name in answer.json()["error"] for name in ("/v1", "run_sync"))


def test_nothing_of_ray_listens_beyond_loopback(served):
    """Neither of what Ray itself starts, nor the port that serve.replica_port closes, nor the metrics."""
    found = listening(served)
    named = {name for name, _, _ in found}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::ProxyActor"} <= named
    assert {"ray::ServeController", f"ray::{GATEWAY}", f"ray::{REPLICA}"} <= named
    assert {served.port, served.metrics} <= {port for _, _, port in found}
    assert [one for one in found if not is_loopback(one[1])] == []
    for name, _, port in found:
        with socket.socket() as stranger:
            assert stranger.connect_ex((own_address(), port)) != 0, name


def test_without_its_token_ray_is_closed(served, tmp_path):
    """Without Ray's token nobody submits a job or reads a table.

    At loopback, where its ports are open to whoever is at this machine, also a page in a browser.
    """
    token = ("authorization", f"Bearer {ray_token(served)}")
    ports = {port: name for name, _, port in listening(served) if port not in (served.port, served.metrics)}
    for method, owner in (
        ("ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "gcs_server"),
        ("ray.rpc.JobInfoGcsService/GetAllJobInfo", "gcs_server"),
        ("ray.rpc.InternalKVGcsService/InternalKVKeys", "gcs_server"),
        ("ray.rpc.NodeManagerService/GetNodeStats", "raylet"),
        ("ray.rpc.ReporterService/HealthCheck", "ray::DashboardAgent"),
        ("ray.rpc.CoreWorkerService/GetCoreWorkerStats", "ray::ServeController"),
        ("ray.rpc.CoreWorkerService/GetCoreWorkerStats", f"ray::{GATEWAY}"),
        ("ray.serve.ASGIService/HandleRequest", f"ray::{REPLICA}"),
    ):
        mine = [port for port, name in ports.items() if name == owner]
        assert "UNAUTHENTICATED" in [called(port, f"/{method}") for port in mine], method
        assert "OK" not in [called(port, f"/{method}", ("authorization", "Bearer another")) for port in mine], method
    (gcs,) = [port for port, name in ports.items() if name == "gcs_server"]
    assert called(gcs, "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", token) == "OK"
    job = {"entrypoint": f"touch {tmp_path / 'ran'}"}
    asked = [port for port, name in ports.items() if name in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")]
    answers = []
    for port in asked:
        for path in ("api/job_agent/jobs/", "api/jobs/", "get_runtime_envs_info"):
            with contextlib.suppress(requests.ConnectionError):  # those of gRPC
                answers.append(requests.post(f"http://127.0.0.1:{port}/{path}", json=job).status_code)
    assert len(answers) >= 3 and set(answers) == {401}


def test_keys_are_in_the_first_process_alone(served):
    """Keys are in no process but the first, and in no table of Ray."""
    first, *others = processes(served)
    key = "ein-schlüssel"
    assert key in first.environ()["VEGA_API_KEYS"]  # so it would be seen
    token = ray_token(served)
    for process in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            command, environment = process.cmdline(), process.environ()
            assert not [name for name, value in environment.items() if key in value], command
            assert token not in " ".join(command)
            if any(part.endswith("main.py") for part in command):
                assert environment["VEGA_API_KEYS"]  # its own
                assert not [name for name in environment if name.startswith("RAY_")], command
    stored = tables(served)
    assert hashlib.sha256(key.encode()).digest() in stored  # so it would be there
    assert key.encode() not in stored
    assert key not in served.read_log()
    assert token not in served.read_log()
