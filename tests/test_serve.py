"""The API by Ray Serve: real processes, killed in every way, and nothing lost."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import http.client
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import requests
import yaml
from api_calls import BASE, PROMPT, RT, in_base64, opened, post, raw, send_and_leave, wait_for
from machine_lacks import own_address
from PIL import Image

from dev import comfyui, host, serve_api
from vega_client import AsyncClient

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[1]

KEY = {"x-api-key": "a-key"}


@pytest.fixture(scope="module")
def operators_path(tmp_path_factory) -> Path:
    """A folder that the operator has put on PYTHONPATH."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="module")
def served(tmp_path_factory, operators_path):
    settings = {"VEGA_API_KEYS": "a-key, ein-schlüssel", "VEGA_API_BODY_MIB": "1"}
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(operators_path)])  # the root, as in docs/cluster
    with serve_api.serving(tmp_path_factory.mktemp("served"), "--replicas", "1", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with serve_api.serving(tmp_path_factory.mktemp("pair"), "--replicas", "2") as running:
        yield running


def hosts(serving) -> list[psutil.Process]:
    """The ComfyUI processes, children of their supervisors."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or ["", ""]
        if command[1:] and command[1].endswith("main.py") and str(serving.log.parent) in command:
            found.append(process)
    return found


def of_ray(serving, name: str) -> list[psutil.Process]:
    """The processes of this Ray, and of no other, that are called so."""
    found = psutil.Process(serving.process.pid).children(recursive=True)
    return [process for process in found if process.is_running() and command(process).startswith(f"ray::{name}")]


def command(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:  # it has just ended
        return ""


GATEWAY, REPLICA = "ServeReplica:vega:Gateway", "ServeReplica:comfyui:ComfyReplica"


def counted(url: str, name: str, **labels: str) -> float:
    """The sum in the metrics there over everything that has these labels."""
    lines = [line for line in requests.get(f"{url}/metrics").text.splitlines() if re.match(rf"(ray_)?{name}[{{ ]", line)]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(line.split()[-1]) for line in lines if all(label in line for label in wanted))


def at_the_port(serving) -> str:
    return f"http://127.0.0.1:{serving.metrics}"


def is_ready(serving) -> bool:
    return requests.get(f"{serving.url}/readyz").status_code == 200


def under_load(serving, server, seeds: range, happens, headers=None) -> None:
    """What happens while every seed is drawn loses no picture and changes none: each is the one that one server draws."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, serving, headers=headers, prompt=PROMPT, seed=seed) for seed in seeds]
        wait_for(lambda: any(answer.done() for answer in answers), seconds=60)
        happens()
        drawn = [answer.result() for answer in answers]
    assert {answer.status_code for answer in drawn} == {200}
    assert [answer.content for answer in drawn] == [post(server, prompt=PROMPT, seed=seed).content for seed in seeds]


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
        time.sleep(0.5)
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
    for value in ("0.0001", "?1", "\xff"):
        assert post(served, headers={**KEY, header: value.encode("latin-1")}, prompt=PROMPT, seed=3).status_code == 200


def test_headers_that_both_servers_write_come_once(served):
    head = f"POST /v1/{RT} HTTP/1.1\r\nx-api-key: a-key\r\nX-Request-Id: mine\r\nContent-Length: 2".encode()
    names = [line.split(b":")[0].lower() for line in raw(served, head, b"{}").split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert sorted(names) == sorted(set(names))
    assert {b"date", b"server", b"x-request-id"} <= set(names)


OPERATORS = ("/healthz", "/readyz", "/v1/models", "/metrics")


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
    content = json.dumps({"prompt": PROMPT, "num_inference_steps": 100}).encode()  # for seconds
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
    wait_for(lambda: all(same(served, name, labels) for name, labels, _ in asked), seconds=40)  # of the tests before
    before = [counted(served.url, name, **labels) for name, labels, _ in asked]
    post(served, BASE, KEY, prompt=PROMPT, samples=2, num_inference_steps=2)
    post(served, headers=KEY, prompt="")
    post(served, "nothing", KEY)
    for (name, labels, more), old in zip(asked, before, strict=True):
        assert counted(served.url, name, **labels) == old + more
        wait_for(lambda name=name, labels=labels: same(served, name, labels), seconds=40)
    assert counted(served.url, "vega_queue_depth") == counted(at_the_port(served), "vega_queue_depth") == 0


def same(serving, name: str, labels: dict) -> bool:
    """Whether Ray's port, which is some seconds behind, and /metrics say the same."""
    return counted(at_the_port(serving), name, **labels) == counted(serving.url, name, **labels)


def test_v2_is_not_there_and_says_what_is(served):
    """Segmind's SDK shows its user the sentence."""
    for path in ("v2/segmind-vega-rt-v1", "v2/requests/a/status", "v2", "v2/"):
        answer = requests.post(f"{served.url}/{path}", json={"prompt": PROMPT}, headers=KEY)
        assert answer.status_code == 404
        assert all(name in answer.json()["error"] for name in ("/v1", "run_sync"))


def processes(serving) -> list[psutil.Process]:
    """The one that was started, then all that it started: Ray's own, those of Ray Serve, and the ComfyUI processes."""
    started = psutil.Process(serving.process.pid)
    return [started, *started.children(recursive=True)]


def listening(serving) -> list[tuple[str, str, int]]:
    """The process's name, without what it is just doing, the address and the port of each."""
    found = []
    for process in processes(serving):
        with contextlib.suppress(psutil.NoSuchProcess):
            name, connections = process.name().split(".")[0], process.net_connections("tcp")
            found += [(name, *connection.laddr) for connection in connections if connection.status == psutil.CONN_LISTEN]
    return found


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


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


def called(port: int, method: str, *token: tuple[str, str]) -> str:
    """The status of an empty gRPC request."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", metadata=token, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def ray_token(serving) -> str:
    (raylet,) = [process for process in processes(serving) if process.name() == "raylet"]
    return raylet.environ()["RAY_AUTH_TOKEN"]


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


KEYS_IN_TABLES = """
import sys
from ray._raylet import GcsClient

gcs = GcsClient(address=sys.argv[1])
for namespace in (None, b"serve", b"fun", b"session", b"cluster", b"dashboard", b"job"):
    for key in gcs.internal_kv_keys(b"", namespace):
        sys.stdout.buffer.write(key + b" " + (gcs.internal_kv_get(key, namespace) or b"") + b" ")
"""


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
    (gcs,) = [port for name, _, port in listening(served) if name == "gcs_server"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-c", KEYS_IN_TABLES, f"127.0.0.1:{gcs}"]
    tables = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    assert hashlib.sha256(key.encode()).digest() in tables  # so it would be there
    assert key.encode() not in tables
    assert key not in served.said()
    assert token not in served.said()


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--host", "0.0.0.0"], "VEGA_API_KEYS"), (["--comfyui", "nowhere"], "no ComfyUI in nowhere")],
)
def test_what_must_not_or_cannot_be_served_is_one_sentence(options, said):
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), *options]
    environment = {name: value for name, value in os.environ.items() if name != "VEGA_API_KEYS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "8123", "--metrics-port", "8123"], "--port and --metrics-port are both 8123"),
        (["--listen", "0.0.0.0"], "--listen is no option for ComfyUI here"),
        (["--liste=0.0.0.0"], "--liste is no option for ComfyUI here"),
    ],
)
def test_options_that_contradict_or_open_are_refused(options, said):
    """Options that contradict each other, or that would open ComfyUI, are refused."""
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.soak
def test_a_comfyui_that_does_not_start_is_told_in_the_last_line():
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), "--cpu", "--no-such-option"]
    command += ["--port", str(comfyui.free_port()), "--metrics-port", str(comfyui.free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "The API can't be served: ComfyUI ended with 2 while it started; its log says why."
    )
    assert "unrecognized arguments: --no-such-option" in done.stdout + done.stderr


@pytest.mark.soak
@pytest.mark.parametrize(
    ("replicas", "said"),
    [
        ("2", "what served before goes on: ComfyUI ended with 3"),
        ("1", "nothing serves, and it is tried again until it does"),
    ],
)
def test_a_restart_to_what_does_not_start_ends_nothing(tmp_path, replicas, said):
    with serve_api.serving(tmp_path, "--replicas", replicas) as serving:
        (pack,) = (tmp_path / "custom_nodes").iterdir()
        broken = pack.with_name("broken.py")
        broken.write_text("import os\nos._exit(3)\n", encoding="utf-8")
        before = {process.pid for process in hosts(serving)}
        serving.process.send_signal(signal.SIGHUP)
        wait_for(lambda: said in serving.said(), seconds=240)
        if replicas == "2":
            assert post(serving, prompt=PROMPT).status_code == 200
        broken.unlink()
        if replicas == "2":
            serving.process.send_signal(signal.SIGHUP)
        assert post(serving, prompt=PROMPT).status_code == 200
        wait_for(lambda: serving.said().count("Vega API on") == 2, seconds=240)
        assert not before & {process.pid for process in hosts(serving)}


@pytest.mark.soak
def test_a_file_of_keys_that_is_none_is_named_before_ray_starts(tmp_path):
    (tmp_path / "door.key").write_bytes(b"\x89PNG")
    environment = {**os.environ, "VEGA_API_KEYS_FILE": str(tmp_path / "door.key")}
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode
    assert "VEGA_API_KEYS_FILE: 'door.key' is not text" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.soak
def test_at_another_host_the_api_listens_and_nothing_of_ray(tmp_path):
    with serve_api.serving(tmp_path, "--replicas", "1", "--host", "0.0.0.0", VEGA_API_KEYS="a-key") as serving:
        beyond = [one for one in listening(serving) if not is_loopback(one[1])]
        assert beyond == [("ray::ProxyActor", "0.0.0.0", serving.port)]
        url = f"http://{own_address()}:{serving.port}/v1/{RT}"
        assert requests.post(url, json={"prompt": PROMPT}, headers=KEY).status_code == 200
        assert requests.post(url, json={"prompt": PROMPT}).status_code == 401


@pytest.mark.soak
def test_a_restart_with_a_broken_file_of_keys_keeps_what_runs(tmp_path):
    keys = tmp_path / "door.key"
    keys.write_text("\ufeff# the door\r\na-key\r\n", encoding="utf-8")
    with serve_api.serving(tmp_path, "--replicas", "1", VEGA_API_KEYS_FILE=str(keys)) as serving:
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


@pytest.mark.soak
def test_wrong_numbers_and_a_taken_port_are_told(server):
    """Wrong numbers and a port that is taken are told before Ray starts."""
    for options, said in (
        (["--replicas", "0"], "'0' is no number from 1 to 1000"),
        (["--replicas", "3", "--most", "2"], "--most 2 is fewer than --replicas 3"),
        (["--port", str(server.port)], f"nothing can listen at 127.0.0.1:{server.port} (Address already in use)"),
    ):
        command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.soak
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


@pytest.mark.soak
def test_what_is_too_much_at_once_is_429_and_counted(pair):
    codes = ("200", "429")
    before = [counted(pair.url, "vega_requests_total", code=code) for code in codes]
    answers = asyncio.run(all_at_once(pair, range(420)))
    found = [[answer.status_code for answer in answers].count(int(code)) for code in codes]
    assert sum(found) == 420 and min(found) > 0
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers if answer.status_code == 429)
    ids = [answer.headers["X-Request-Id"] for answer in answers if answer.status_code == 200]
    wait_for(lambda: [id for id in ids if f"Vega API: {id}: 200" not in pair.said()] == [])
    after = [counted(pair.url, "vega_requests_total", code=code) for code in codes]
    assert [now - old for now, old in zip(after, before, strict=True)] == found
    wait_for(lambda: all(same(pair, "vega_requests_total", {"code": code}) for code in codes), seconds=40)
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


def named(serving, name: str) -> psutil.Process:
    (found,) = [process for process in processes(serving) if process.name() == name and process.status() != "zombie"]
    return found


async def drawn_while(serving, seeds: range, happens) -> list[bytes]:
    """The pixels that the client gets for each seed; happens is called when it has the first."""
    async with AsyncClient(serving.url) as client:
        asked = [asyncio.create_task(client.generate(PROMPT, seed=seed, format="png")) for seed in seeds]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(happens, serving)
        return [image.tobytes() for image in await asyncio.gather(*asked)]


@pytest.mark.soak
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


@pytest.mark.soak
def test_the_death_of_ray_while_starting_ends_all(tmp_path):
    """Before it has served, the death of Ray ends all with a sentence.

    By way of ray._private.worker._global_node, its dead_processes and kill_all_processes.
    """
    command = [sys.executable, "-m", "serve", *serve_api.command(tmp_path)[3:]]
    command += ["--port", str(comfyui.free_port()), "--metrics-port", str(comfyui.free_port())]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    first, found = psutil.Process(process.pid), []

    def has_begun() -> bool:
        found[:] = first.children(recursive=True)
        return any("supervisor.py" in " ".join(child.cmdline()) for child in found if child.is_running())

    wait_for(has_begun, seconds=120)
    next(child for child in found if child.name() == "raylet").kill()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Ray has ended (raylet died): so does the API" in said
    assert not [child for child in found if child.is_running()]


@pytest.mark.soak
def test_a_worker_killed_under_load_loses_nothing(pair, server):
    supervisor = hosts(pair)[0].parent()
    under_load(pair, server, range(100, 130), lambda: supervisor.parent().send_signal(signal.SIGKILL))
    wait_for(lambda: not psutil.pid_exists(supervisor.pid))
    wait_for(lambda: len(hosts(pair)) == 2, seconds=120)


@pytest.mark.soak
def test_a_host_that_hangs_is_replaced_and_loses_nothing(pair, server):
    hung = hosts(pair)[0]
    under_load(pair, server, range(200, 230), hung.suspend)
    assert not hung.is_running()


@pytest.mark.soak
def test_a_rolling_restart_loses_nothing(pair, server):
    """A rolling restart replaces every process, and loses no picture."""
    before = {process.pid for process in hosts(pair)}
    under_load(pair, server, range(300, 330), lambda: pair.process.send_signal(signal.SIGHUP))
    wait_for(lambda: len(hosts(pair)) == 2 and not before & {process.pid for process in hosts(pair)}, seconds=180)
    under_load(pair, server, range(330, 340), lambda: None)


@pytest.mark.soak
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


@pytest.mark.soak
def test_processes_come_with_the_load(tmp_path, server):
    with serve_api.serving(tmp_path, "--replicas", "1", "--most", "2") as running:
        assert len(hosts(running)) == 1
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            loaded = [pool.submit(post, running, BASE, prompt=PROMPT, seed=seed) for seed in range(150)]
            wait_for(lambda: len(hosts(running)) == 2, seconds=240)
            for answer in loaded:
                answer.cancel()
            assert {answer.result().status_code for answer in loaded if not answer.cancelled()} == {200}


@pytest.mark.soak
def test_the_documented_cluster_serves_on_one_machine(tmp_path, server):
    config = yaml.safe_load((ROOT / "docs" / "cluster" / "serve.yaml").read_text(encoding="utf-8"))
    port = config["http_options"]["port"] = comfyui.free_port()
    replica_app, gateway_app = config["applications"]
    keys = tmp_path / "keys"
    keys.write_text("another\na-key\n", encoding="utf-8")
    for one in (replica_app, gateway_app):
        one["args"] = {"comfyui": str(host.path()), "arguments": comfyui.prepare(tmp_path)}
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
