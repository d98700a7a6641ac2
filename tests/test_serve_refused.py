"""Starts of the API by Ray Serve that are refused or fail: each is told in the last line."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from api_calls import wait_for

from dev import comfyui, host, serve_api

pytestmark = pytest.mark.server
ROOT = Path(__file__).resolve().parents[1]


def ended(*options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A start that ends by itself."""
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--host", "0.0.0.0"], "VEGA_API_KEYS"), (["--comfyui", "nowhere"], "no ComfyUI in nowhere")],
)
def test_what_must_not_or_cannot_be_served_is_one_sentence(options, said):
    environment = {name: value for name, value in os.environ.items() if name != "VEGA_API_KEYS"}
    done = ended(*options, environment=environment)
    assert done.returncode
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "8123", "--metrics-port", "8123"], "--port and --metrics-port are both 8123"),
        pytest.param(["--listen", "0.0.0.0"], "--listen is no option for ComfyUI here", marks=pytest.mark.soak),
        (["--liste=0.0.0.0"], "--liste is no option for ComfyUI here"),
    ],
)
def test_options_that_contradict_or_open_are_refused(options, said):
    """Options that contradict each other, or that would open ComfyUI, are refused."""
    done = ended(*options)
    assert done.returncode
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.soak
def test_a_comfyui_that_does_not_start_is_told_in_the_last_line():
    ports = ["--port", str(comfyui.free_port()), "--metrics-port", str(comfyui.free_port())]
    done = ended("--cpu", "--no-such-option", *ports)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == "The API can't be served: ComfyUI ended with 2 while it started; its log says why."
    )
    assert "unrecognized arguments: --no-such-option" in done.stdout + done.stderr


@pytest.mark.soak
def test_a_file_of_keys_that_is_none_is_named_before_ray_starts(tmp_path):
    (tmp_path / "door.key").write_bytes(b"\x89PNG")
    done = ended(environment={**os.environ, "VEGA_API_KEYS_FILE": str(tmp_path / "door.key")})
    assert done.returncode
    assert "VEGA_API_KEYS_FILE: 'door.key' is not text" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.soak
def test_wrong_numbers_and_a_taken_port_are_told(server):
    """Wrong numbers and a port that is taken are told before Ray starts."""
    for options, said in (
        (["--replicas", "0"], "'0' is no number from 1 to 1000"),
        (["--replicas", "3", "--most", "2"], "--most 2 is fewer than --replicas 3"),
        (["--port", str(server.port)], f"nothing can listen at 127.0.0.1:{server.port} (Address already in use)"),
    ):
        done = ended(*options)
        assert done.returncode
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.soak
def test_the_death_of_ray_while_starting_ends_all(tmp_path):
    """Before it has served, the death of Ray ends all with a sentence.

    By way of ray._private.worker._global_node, its dead_processes and kill_all_processes.
    """
    command = [sys.executable, "-m", "serve", *serve_api.build_command(tmp_path)[3:]]
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
