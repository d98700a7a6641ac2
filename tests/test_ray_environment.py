"""`python -m serve` sets what keeps Ray to this machine, and starts with nothing in the environment that would undo it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev import comfyui, host
from serve.ray_environment import private_variables

ROOT = Path(__file__).resolve().parents[1]

TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def test_ray_asks_everybody_for_a_token_that_nobody_knows():
    given = {"RAY_AUTH_MODE": "Token", "RAY_worker_niceness": "1", "RAY_AUTH_TOKEN": ""}
    one, other = private_variables({}), private_variables(given)
    assert one["RAY_AUTH_MODE"] == other["RAY_AUTH_MODE"] == "token"
    assert one["RAY_AUTH_TOKEN"] != other["RAY_AUTH_TOKEN"]
    assert len(bytes.fromhex(one["RAY_AUTH_TOKEN"])) == 32


def test_a_program_that_has_imported_ray_may_start_it():
    assert private_variables({"RAY_CLIENT_MODE": "0"})["RAY_AUTH_MODE"] == "token"


def test_an_operators_own_token_is_used(token_file):
    assert private_variables({"RAY_AUTH_TOKEN": TOKEN})["RAY_AUTH_TOKEN"] == TOKEN
    found = private_variables({"RAY_AUTH_TOKEN_PATH": str(token_file)})
    assert (found["RAY_AUTH_TOKEN_PATH"], "RAY_AUTH_TOKEN" in found) == (str(token_file), False)


@pytest.mark.parametrize("mode", ["disabled", "Disabled", "", "0", "k8s", "token ", "none"])
def test_another_mode_than_token_is_refused(mode):
    with pytest.raises(ValueError, match="RAY_AUTH_MODE"):
        private_variables({"RAY_AUTH_MODE": mode})


@pytest.mark.parametrize(
    "name",
    [
        "RAY_ADDRESS",
        "RAY_REDIS_ADDRESS",
        "RAY_GCS_SERVER_PORT",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "RAY_ENABLE_K8S_TOKEN_AUTH",
        "RAY_enable_cluster_auth",
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS",
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT",
        "RAY_RUNTIME_ENV_HOOK",
        "RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR",
        "RAY_CLIENT_MODE",
        "RAY_TMPDIR_OF_TOMORROW",
    ],
)
def test_what_might_open_ray_is_refused(name):
    """What might open Ray is refused by name, also a variable that nobody knows yet."""
    with pytest.raises(ValueError, match=f"^{name}: .*unset"):
        private_variables({"PATH": "/bin", "RAY_TMPDIR": "/tmp", name: "1"})


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
@pytest.mark.parametrize("token", ["short", "a" * 64, TOKEN[:-1], f"{TOKEN[:16]} {TOKEN[:16]}", f"{TOKEN}ä"])
def test_a_weak_token_is_refused_and_not_shown(variable, token, token_file):
    """A token that can be guessed, or that no header takes, is refused and not shown."""
    token_file.write_text(token, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{variable}") as refused:
        private_variables({variable: token if variable == "RAY_AUTH_TOKEN" else str(token_file)})
    assert token not in str(refused.value)


def test_a_token_file_that_is_none_or_others_read_is_refused(tmp_path, token_file):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match="^RAY_AUTH_TOKEN_PATH: .* can't be read"):
            private_variables({"RAY_AUTH_TOKEN_PATH": str(path)})
    if os.name == "posix":
        token_file.chmod(0o640)
        with pytest.raises(ValueError, match="chmod 600"):
            private_variables({"RAY_AUTH_TOKEN_PATH": str(token_file)})


@pytest.mark.server
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE is 'disabled'", marks=pytest.mark.soak),
        ({"RAY_ADDRESS": "auto"}, "RAY_ADDRESS: "),
        ({"PYTHONPATH": "OLD"}, "Ray 2.57.1 "),
    ],
)
def test_the_refusal_is_one_sentence(tmp_path, variables, said):
    installed = tmp_path / "ray-2.57.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.57.1\n", encoding="utf-8")
    environment = {**os.environ, **{name: value.replace("OLD", str(tmp_path)) for name, value in variables.items()}}
    ports = ["--port", str(comfyui.free_port()), "--metrics-port", str(comfyui.free_port())]
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), *ports]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
