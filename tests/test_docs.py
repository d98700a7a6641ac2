"""The programs and the calls in docs/ do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from machine_lacks import program
from PIL import Image
from ray.serve.schema import ServeDeploySchema

ROOT = Path(__file__).resolve().parents[1]
DOCS = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def block(language: str, text: str = DOCS) -> str:
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


def test_the_python_example(server, tmp_path):
    printed = run(tmp_path, sys.executable, str(ROOT / "docs" / "draw.py"), server.url)
    assert "step 4 of 4" in printed
    for name, side in (("dawn.png", 256), ("night.png", 256), ("workflow.png", 256)):
        assert Image.open(tmp_path / name).size == (side, side)


def test_the_javascript_example(server, tmp_path):
    printed = run(tmp_path, program("node"), str(ROOT / "docs" / "draw.mjs"), server.url)
    assert "seed 2" in printed
    assert Image.open(tmp_path / "dawn.jpg").size == (256, 256)


@pytest.mark.parametrize("page", ["docs/api.md", "README.md"])
def test_the_curl_call(server, tmp_path, page):
    call = block("sh", (ROOT / page).read_text(encoding="utf-8"))
    curl = call.replace("http://127.0.0.1:8188", server.url).replace("curl ", f"{program('curl')} ", 1)
    run(tmp_path, "sh", "-c", curl)
    assert Image.open(tmp_path / "dawn.jpg").format == "JPEG"


def test_the_python_in_the_docs(server, tmp_path):
    shutil.copy(ROOT / "workflows" / "01 Text to picture.json", tmp_path / "workflow.json")
    code = block("python").replace("http://127.0.0.1:8188", server.url).replace("KSampler.seed", "VegaLCMSampler.seed")
    run(tmp_path, sys.executable, "-c", code)


def test_the_javascript_in_the_docs(server, tmp_path):
    code = block("js").replace("http://127.0.0.1:8188", server.url) + "\nconsole.log(picture.size, picture.type);"
    (tmp_path / "docs.mjs").write_text(code, encoding="utf-8")
    size, kind = run(tmp_path, program("node"), "docs.mjs").split()
    assert int(size) > 1000
    assert kind == "image/jpeg"


def test_the_docs_name_what_the_contract_has(server):
    schemas = server.get("/v1/openapi.json").json()["components"]["schemas"]
    fields = {field for name in ("RealTimeRequest", "BaseRequest") for field in schemas[name]["properties"]}
    assert [field for field in fields if f"`{field}`" not in DOCS] == []


def test_the_documented_cluster_is_one_that_ray_takes(tmp_path):
    """Its names are those of the code; that it serves is shown by make soak."""
    config = yaml.safe_load((ROOT / "docs" / "cluster" / "serve.yaml").read_text(encoding="utf-8"))
    replicas, app = ServeDeploySchema.model_validate(config).applications
    assert (replicas.args, replicas.runtime_env) == (app.args, app.runtime_env)
    (tmp_path / "main.py").touch()
    code = (
        "import importlib, sys\n"
        "for path in sys.argv[2:]:\n"
        "    module, _, builder = path.partition(':')\n"
        "    found = importlib.import_module(module)\n"
        "    app = getattr(found, builder)(found.Options.model_validate_json(sys.argv[1]))\n"
        "    print(app._bound_deployment.name, type(app).__name__)\n"
        "print(found.replica.APPLICATION, found.gateway.APPLICATION)"
    )
    command = [sys.executable, "-c", code, json.dumps({**app.args, "comfyui": str(tmp_path)})]
    command += [one.import_path for one in (replicas, app)]
    (tmp_path / "keys").write_text("a-key\n", encoding="utf-8")
    changes = {"PYTHONPATH": str(ROOT), "VEGA_API_KEYS_FILE": str(tmp_path / "keys")}
    assert changes.keys() <= app.runtime_env["env_vars"].keys()
    environment = {**os.environ, **app.runtime_env["env_vars"], **changes}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    names = [name for one in (replicas, app) for name in (one.deployments[0].name, "Application")]
    assert done.stdout.split() == [*names, replicas.name, app.name], done.stderr


def test_the_documented_cluster_names_the_docs_files():
    """The documented cluster draws with the files that the documents tell people to save."""

    config = yaml.safe_load((ROOT / "docs" / "cluster" / "serve.yaml").read_text(encoding="utf-8"))
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Files to download")[2].partition("\n## ")[0]
    for application in config["applications"]:
        variables = application["runtime_env"]["env_vars"]
        assert f"| `checkpoints/` | `{variables['VEGA_API_MODEL']}` |" in table
        assert f"| `loras/` | `{variables['VEGA_API_LORA']}` |" in table
        for name in ("VEGA_API_MODEL", "VEGA_API_LORA", "VEGA_API_VAE"):
            assert f"`{name}={variables[name]}`" in DOCS


def test_the_documented_cluster_asks_for_a_token():
    """The documented cluster asks for Ray's token, and puts it on every machine."""
    config = yaml.safe_load((ROOT / "docs" / "cluster" / "machines.yaml").read_text(encoding="utf-8"))
    started = [
        command
        for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"])
        for command in commands
        if "ray start" in command
    ]
    assert len(started) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ") for command in started)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}  # where Ray looks for it
