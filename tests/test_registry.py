"""What the Comfy registry is told and shown of the pack, by its rules, and what it gives to those who install it.

The rules: https://docs.comfy.org/registry/specifications, and what comfy-cli checks (config_parser.py, command.py).
"""

import ast
import asyncio
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import graphs
import numpy as np
import pytest
import tomllib
from PIL import Image
from psnr import psnr
from vega_pack import extension
from vega_pack.contract import openapi

from dev import comfyui, host, registry_pictures
from vega_client import Client

ROOT = Path(__file__).resolve().parents[1]
DATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, COMFY = DATA["project"], DATA["tool"]["comfy"]
SYSTEMS = ("Microsoft", "POSIX", "MacOS", "OS Independent")
ACCELERATORS = {"NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal"}
# What scanners of archives ask about: other processes, connections, downloads, and text that is run as code.
SUSPECT = {"subprocess", "multiprocessing", "pty", "ctypes", "pip", "ensurepip", "runpy", "code", "marshal"}
SUSPECT |= {"socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib", "telnetlib", "xmlrpc", "webbrowser"}
SUSPECT |= {"requests", "httpx", "urllib3", "websocket", "websockets", "huggingface_hub", "wget", "gdown", "paramiko"}
SUSPECT_NAMES = {"eval", "exec", "compile", "__import__"}
SUSPECT_CALLS = r"os\.(system|popen|startfile|fork\w*|exec\w+|spawn\w+|posix_spawn\w*)|torch\.hub\.\w+|aiohttp\.Client\w+"
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


def test_the_project_is_named_as_the_registry_wants_it():
    """The project has the name, version and addresses that the registry wants."""
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


def test_no_machine_is_called_unsupported():
    """comfy-cli tells the registry "GPU :: NVIDIA CUDA", and ComfyUI's frontend looks for "CUDA", "Metal", "ROCm" or "CPU"
    in what it was told (useConflictDetection): an accelerator is a conflict everywhere, and none is none anywhere."""
    assert [name for name in PROJECT["classifiers"] if name.startswith("Environment")] == []
    assert "Operating System :: OS Independent" in PROJECT["classifiers"]


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
    with Client(server.url) as client:
        for field, draw in (("Icon", registry_pictures.draw_icon), ("Banner", registry_pictures.draw_banner)):
            with picture(field) as shown:
                one, other = (np.asarray(image.convert("RGB"), dtype=float) for image in (shown, draw(client)))
            assert psnr(one, other) > 28


def test_what_only_developers_need_is_not_installed():
    folders = {name.partition("/")[0] for name in packed()}
    assert not folders & {".ci", "bench", "dev", "tests", "Makefile"}
    assert not [name for name in packed() if name.startswith("train/nano/")]
    assert "vega/nano/reader.safetensors" not in packed()


def test_only_what_nodes_and_api_need_is_installed():
    """What the nodes and the API need is installed, and no more."""
    files = {"LICENSE", "README.md", "__init__.py", "__main__.py", "extension.py", "host_version.py"}
    files |= {"pyproject.toml", "requirements.txt"}
    folders = {"api", "contract", "docs", "locales", "images", "input", "nodes", "train", "vega", "web", "workflows"}
    assert {name.partition("/")[0] for name in packed()} == files | folders
    # Help pages name api.md, live.md and train.md, templates live.md and recipes.md.
    docs = {"docs/api.md", "docs/live.md", "docs/recipes.md", "docs/train.md"}
    assert {name for name in packed() if name.startswith("docs/")} == docs


def sources() -> dict[str, ast.Module]:
    names = sorted(name for name in packed() if name.endswith(".py"))
    return {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in names}


def dotted(node: ast.expr) -> str:
    """os.path.join of such an expression."""
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def suspect(tree: ast.Module) -> list[str]:
    """Everything in a file that a scanner of archives would ask about."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in SUSPECT]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name.partition(".")[0] in SUSPECT or re.fullmatch(SUSPECT_CALLS, name)]
        elif isinstance(node, ast.Name) and node.id in SUSPECT_NAMES:
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and re.fullmatch(SUSPECT_CALLS, dotted(node)):
            found.append(dotted(node))
    return found


# What is asked about, and why it is there.
NEEDED = {
    "nodes/training_process.py": ["subprocess"],  # starts the pack's own train/ with the Python that runs ComfyUI
    "train/perceptual_distance.py": ["torch.hub.get_dir"],  # where torch's cache is; what isn't there is not fetched
}


def test_installed_code_has_nothing_suspect():
    """What is installed opens no connection, and starts no process but the one that trains."""
    assert {name: found for name, tree in sources().items() if (found := suspect(tree))} == NEEDED


def test_what_trains_is_all_that_is_started():
    """This Python with the pack's own folder, as a list, without a shell."""
    (call,) = [
        node
        for node in ast.walk(sources()["nodes/training_process.py"])
        if isinstance(node, ast.Call) and dotted(node.func).startswith("subprocess.")
    ]
    assert dotted(call.func) == "subprocess.Popen"
    assert ast.unparse(call.args[0]) == "[sys.executable, str(PACK_DIR), *arguments]"
    assert "shell" not in {keyword.arg for keyword in call.keywords}


@pytest.mark.parametrize(
    "line",
    ["import subprocess", "from urllib import request", "import http.client as c", "import os; os.system('ls')", "eval('1')"]
    + ["from os import popen", "import torch; torch.hub.load('a', 'b')", "import aiohttp; aiohttp.ClientSession()"]
    + ["def f():\n    import socket", "__import__('socket')", "f = exec"],
)
def test_that_would_be_found(line):
    assert suspect(ast.parse(line))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The archive's files alone."""
    package = tmp_path_factory.mktemp("installed") / "package"
    for name in packed():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, package / name)
    return package


def test_what_is_installed_imports_nothing_that_is_left_out():
    """Absolutely; what it imports relatively is found in the next test, or not."""
    left_out = {part for name in tracked() - packed() if name.endswith(".py") for part in Path(name).with_suffix("").parts}
    left_out -= {Path(name).parts[0] for name in packed()}  # train/, of which train/nano/ stays out
    for name, tree in sources().items():
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {module.partition(".")[0] for module in modules} & left_out, name
        assert not [module for module in modules if module.startswith("train.nano")], name


def test_what_is_installed_describes_the_same_nodes_and_api(installed):
    """Every module of the archive is imported from a copy of it."""
    name = "installed_pack"
    spec = importlib.util.spec_from_file_location(
        name, installed / "__init__.py", submodule_search_locations=[str(installed)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        for source in sources():
            importlib.import_module(".".join([name, *Path(source).with_suffix("").parts]).removesuffix(".__init__"))
        modules = {key: module for key, module in sys.modules.items() if key.startswith(f"{name}.")}
        assert all(Path(module.__file__).is_relative_to(installed) for module in modules.values())
        assert described(modules[f"{name}.extension"]) == described(extension)
        assert modules[f"{name}.contract.openapi"].build_document() == openapi.build_document()
    finally:
        for key in [key for key in sys.modules if key.partition(".")[0] == name]:
            del sys.modules[key]


def described(extension) -> list[dict]:
    return [node.GET_NODE_INFO_V1() for node in asyncio.run(extension.VegaExtension().get_node_list())]


@pytest.mark.soak
def test_what_is_installed_draws(server, installed, tmp_path):
    """The archive's files alone, in custom_nodes of a server of their own."""
    base = tmp_path / "base"
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / host.ROOT.name).symlink_to(installed, target_is_directory=True)
    asked = ("/workflow_templates", "/i18n", f"/extensions/{ROOT.name}/docs/VegaLoader.md", "/v1/openapi.json")
    with comfyui.serve(base) as alone, alone.connect() as client:
        assert all(alone.get(path).content == server.get(path).content for path in asked)
        assert comfyui.output_images(client.run(graphs.text_to_image()))
        body = {"prompt": "night, desert, full moon", "seed": 3, "format": "png"}
        one, other = (running.post("/v1/segmind-vega-rt-v1", body).content for running in (alone, server))
        assert one == other
        ours = {name: info for name, info in server.get("/object_info").json().items() if name.startswith("Vega")}
        assert ours
        assert all(alone.get(f"/object_info/{name}").json()[name].keys() == info.keys() for name, info in ours.items())
