"""What the Comfy registry is told and shown of the pack, by its rules, and what it gives to those who install it.

The rules: https://docs.comfy.org/registry/specifications, and what comfy-cli checks (config_parser.py, command.py).
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import comfyui
import graphs
import host
import numpy as np
import pytest
import registry_pictures
import tomllib
from PIL import Image
from psnr import psnr

ROOT = Path(__file__).resolve().parents[1]
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, COMFY = DATA["project"], DATA["tool"]["comfy"]
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {"NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal"}
VERSION = r"(==|>=|<=|!=|~=|>|<|<>|=)\s*\d+\.\d+\.\d+(-[a-zA-Z0-9]+)?"


def tracked(*options: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", *options]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in names.split("\0") if name and (ROOT / name).is_file()}


def packed() -> set[str]:
    """What `comfy node pack` puts into the archive: tracked files, but for those that .comfyignore names as git would."""
    return tracked() - tracked("--ignored", "--exclude-from=.comfyignore")


def picture(field: str) -> Image.Image:
    """The file of this repository that the field's address leads to."""
    address = COMFY[field]
    place = PROJECT["urls"]["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/") + "/main/"
    assert address.startswith(place)
    name = address.removeprefix(place)
    assert name in tracked()
    return Image.open(ROOT / name)


def test_the_project_is_named_and_numbered_as_the_registry_wants_it():
    assert re.fullmatch(r"[a-z]+([-_.]?[a-z0-9]+)*", PROJECT["name"])
    assert len(PROJECT["name"]) < 100
    assert "comfyui" not in PROJECT["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert PROJECT["description"]
    assert (ROOT / PROJECT["license"]["file"]).is_file()
    assert all(address.startswith("https://") for address in PROJECT["urls"].values())
    assert COMFY["PublisherId"]
    assert COMFY["DisplayName"]
    assert all(re.fullmatch(VERSION, part.strip()) for part in COMFY["requires-comfyui"].split(","))


def test_systems_and_accelerators_are_those_that_it_knows():
    systems, accelerators = [], []
    for classifier in PROJECT["classifiers"]:
        kind, *rest = classifier.split(" :: ")
        if kind == "Operating System":
            systems.append(rest[0])
        elif kind == "Environment":
            accelerators.append(rest[-1])
    assert systems
    assert set(systems) <= set(SYSTEMS)
    assert set(accelerators) <= ACCELERATORS


def test_what_is_installed_with_it():
    """Twice: comfy-cli reads pyproject.toml, ComfyUI-Manager requirements.txt."""
    assert PROJECT["dependencies"] == (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert not [name for name in PROJECT["dependencies"] if name.startswith("torch")]


def test_its_security_rules_find_nothing():
    """As `comfy node validate` runs them."""
    command = [sys.executable, "-m", "ruff", "check", ".", "-q", "--select", "S102,S307,E702", "--exit-zero"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout


def test_the_icon_and_the_banner_have_the_sizes_that_it_shows():
    with picture("Icon") as icon, picture("Banner") as banner:
        assert icon.format in ("PNG", "JPEG", "GIF")
        assert icon.width == icon.height <= 400
        assert banner.format in ("PNG", "JPEG", "GIF")
        assert banner.width * 9 == banner.height * 21


@pytest.mark.soak
def test_vega_nano_draws_them(server):
    for field, draw in (("Icon", registry_pictures.icon), ("Banner", registry_pictures.banner)):
        with picture(field) as shown:
            one, other = (np.asarray(image.convert("RGB"), dtype=float) for image in (shown, draw(server)))
        assert psnr(one, other) > 28


def test_what_only_developers_need_is_not_installed():
    folders = {name.partition("/")[0] for name in packed()}
    assert not folders & {".ci", "bench", "dev", "tests", "train", "Makefile"}
    assert "vega/nano/reader.safetensors" not in packed()


@pytest.mark.soak
def test_what_is_installed_draws(server, tmp_path):
    """The archive's files alone, in custom_nodes of a server of their own."""
    package = tmp_path / "package"
    for name in packed():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, package / name)
    base = tmp_path / "base"
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / host.ROOT.name).symlink_to(package, target_is_directory=True)
    asked = ("/workflow_templates", "/i18n", f"/extensions/{ROOT.name}/docs/VegaLoader.md", "/v1/openapi.json")
    with comfyui.serve(base) as installed, installed.connect() as client:
        assert all(installed.get(path).content == server.get(path).content for path in asked)
        assert comfyui.images(client.run(graphs.text_to_image()))
        body = {"prompt": "night, desert, full moon", "seed": 3, "format": "png"}
        one, other = (running.post("/v1/segmind-vega-rt-v1", body).content for running in (installed, server))
        assert one == other
        ours = {name: info for name, info in server.get("/object_info").json().items() if name.startswith("Vega")}
        assert ours
        assert all(installed.get(f"/object_info/{name}").json()[name].keys() == info.keys() for name, info in ours.items())
