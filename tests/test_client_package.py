"""The Python client as a package: what its wheel holds, its errors and its signatures."""

import email
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vega_client
from vega_client import AsyncClient, Client, VegaError
from vega_client.client import ApiFields

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "vega_client"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built with nothing of the pack beside it."""
    folder = tmp_path_factory.mktemp("client")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_files(wheel):
    """All modules and py.typed, without which type checkers ignore the types."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("vega_client/")}
    modules = {f"vega_client/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")}
    assert names == modules | {"vega_client/py.typed"}


def test_wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
        (license_file,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Description-Content-Type"] == "text/markdown"
    body = metadata.get_payload(decode=True).decode("utf-8")
    assert body.strip() == (SOURCE / "README.md").read_text(encoding="utf-8").strip()


def test_wheel_installs(wheel, tmp_path):
    options = ["--quiet", "--no-deps", "--target", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True, capture_output=True)
    code = "import vega_client, vega_client.workflow; print(vega_client.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(tmp_path) in ran.stdout


def test_one_base_for_all_errors():
    errors = {name for name, kind in vars(vega_client.errors).items() if isinstance(kind, type)}
    assert errors <= set(vega_client.__all__)
    assert all(issubclass(getattr(vega_client, name), VegaError) for name in errors)
    assert issubclass(vega_client.ConnectError, ConnectionError)  # which programs caught before there was a base
    assert not issubclass(vega_client.PromptLostError, vega_client.WorkflowError)  # `except Failed` doesn't catch Lost
    assert vega_client.Refused is vega_client.RequestError
    assert vega_client.Failed is vega_client.WorkflowError
    assert vega_client.Lost is vega_client.PromptLostError


@pytest.mark.parametrize("name", ["__init__", "generate", "queue"])
def test_both_clients_have_the_same_signatures(name):
    assert inspect.signature(getattr(Client, name)) == inspect.signature(getattr(AsyncClient, name))


def test_typed_fields_are_those_of_the_api(server):
    """Apart from those with keywords of their own, and those for more or other than one picture's bytes."""
    schemas = server.get("/v1/openapi.json").json()["components"]["schemas"]
    fields = {field for name in ("RealTimeRequest", "BaseRequest") for field in schemas[name]["properties"]}
    own = {"prompt", "seed", "num_inference_steps", "img_width", "img_height", "image"}
    assert ApiFields.__optional_keys__ == fields - own - {"samples", "base64"}


def test_the_readme_names_every_error():
    readme = (SOURCE / "README.md").read_text(encoding="utf-8")
    assert [name for name in vega_client.__all__ if f"`{name}`" not in readme and name != "Client"] == []
