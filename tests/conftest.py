"""Fixtures that several files share, and the order and report of the tests."""

import gc
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiers
import torch
from PIL import Image
from soak_report import pytest_terminal_summary  # noqa: F401

from dev import host

ROOT = Path(__file__).resolve().parents[1]
if not (host.path() / "main.py").is_file():
    pytest.exit(f"No ComfyUI in {host.path()}: run `make test`, which fetches it, or set COMFYUI_PATH.", returncode=2)

from dev import host_setup  # noqa: E402

host_setup.load_pack()

from vega_pack.vega import checkpoint, cpu_decoder, cpu_unet, lora, openvino_graph  # noqa: E402


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory):
    """A second place for models, which the server knows from an extra_model_paths.yaml."""
    folder = tmp_path_factory.mktemp("elsewhere")
    kinds = ("checkpoints", "diffusers", "loras", "vae_approx")
    for kind in kinds:
        (folder / f"my {kind}").mkdir()
    lines = ["mine:", f"  base_path: {folder}", *(f"  {kind}: my {kind}" for kind in kinds)]
    (folder / "extra_model_paths.yaml").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory, elsewhere):
    """The real ComfyUI server with this pack, one for the whole run; models dropped into server.base/models are seen."""
    from dev import comfyui

    paths = str(elsewhere / "extra_model_paths.yaml")
    with comfyui.serve(tmp_path_factory.mktemp("comfyui"), "--extra-model-paths-config", paths) as running:
        yield running


@pytest.fixture(scope="module")
def vega(tmp_path_factory):
    """(diffusers' UNet of Segmind-Vega with random weights, our MODEL)."""
    from dev import diffusers_folders

    folder = tmp_path_factory.mktemp("model") / "model"
    modules = diffusers_folders.write(folder, "Segmind-Vega")
    with torch.inference_mode():
        return modules["unet"], checkpoint.load(folder, "tiny", [])[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """family -> (diffusers' modules, our MODEL, our CLIP): SD 1.5, and the families with blocks of it left out."""
    from dev import diffusers_folders

    found = {}
    with torch.inference_mode():
        for family in ("small-sd", "tiny-sd", "SD 1.5"):
            folder = tmp_path_factory.mktemp("model") / "model"
            modules = diffusers_folders.write(folder, family)
            found[family] = modules, *checkpoint.load(folder, "tiny", [])[:2]
    return found


@pytest.fixture
def client(server):
    with server.connect() as connected:
        yield connected


@pytest.fixture
def live(server):
    """A program at /vega/live, of which nobody knows the name."""
    from live_sockets import LiveSocket

    with LiveSocket(server) as socket:
        assert socket.receive()[0]["type"] == "waiting"
        yield socket


@pytest.fixture
def python_client(server):
    """vega_client's Client of the server."""
    from vega_client import Client

    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def noise(server):
    """Two different pictures in the server's input folder: name -> uint8 [H, W, 3]."""
    arrays = {f"noise_{k}.png": np.random.default_rng(k).integers(0, 256, (48, 64, 3), np.uint8) for k in range(2)}
    for name, array in arrays.items():
        Image.fromarray(array).save(server.base / "input" / name)
    return arrays


@pytest.fixture
def metadata_client(server):
    """A client that has announced what the browser announces."""
    with server.connect() as connected:
        connected.socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        while json.loads(connected.socket.recv())["type"] != "feature_flags":
            pass
        yield connected


@pytest.fixture(scope="module")
def operators_path(tmp_path_factory) -> Path:
    """A folder that the operator has put on PYTHONPATH."""
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="module")
def served(tmp_path_factory, operators_path):
    """The API by Ray Serve with one replica and two keys; tests/test_serve.py shares one start of Ray."""
    from dev import serve_api

    settings = {"VEGA_API_KEYS": "a-key, ein-schlüssel", "VEGA_API_BODY_MIB": "1"}
    settings["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(operators_path)])  # the root, as in docs/cluster
    with serve_api.serve(tmp_path_factory.mktemp("served"), "--replicas", "1", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    """ComfyUI's page in Chromium, as a newcomer finds it: the server keeps which panels the last page had open."""
    from machine_lacks import program

    from dev import browser

    (server.base / "user" / "default" / "comfy.settings.json").unlink(missing_ok=True)
    with browser.open_page(server, tmp_path_factory.mktemp("profile"), program("chromium")) as page:
        yield page


@pytest.fixture
def nothing_live(page):
    """A test begins without errors in the console, and no live picture goes on after it."""
    page.console_errors.clear()
    yield
    page.evaluate("window.app.graph.clear()")


@pytest.fixture
def renderer(page, request):
    """The frontend draws nodes with Nodes 2.0 or, as by default here, without: tests choose by parametrize, indirectly."""
    from template_cards import set_renderer

    set_renderer(page, request.param)
    yield request.param
    set_renderer(page, "classic")


@pytest.fixture(scope="module")
def place(server):
    """Puts files into the server's models and takes them away again."""
    placed = set()

    def place(name: str, content: bytes = b"") -> None:
        file = server.base / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        placed.add(file)

    yield place
    for file in placed:
        file.unlink()


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory):
    """The smallest family, as a folder and as a single file, with a tiny autoencoder beside it."""
    import model_files

    from dev import diffusers_folders, single_files

    path = tmp_path_factory.mktemp("models")
    diffusers_folders.write(path / "folder", "tiny-sd")
    single_files.write(path / "single.safetensors", "tiny-sd")
    return path, model_files.tiny_files(path)


@pytest.fixture
def folder(tiny_sd, tmp_path):
    """A copy of tiny-sd's folder, for the test to change."""
    return Path(shutil.copytree(tiny_sd[0] / "folder", tmp_path / "folder"))


@pytest.fixture
def single(tiny_sd, tmp_path):
    """(a copy of tiny-sd's single file, the files of models/vae_approx)."""
    return Path(shutil.copy(tiny_sd[0] / "single.safetensors", tmp_path / "single.safetensors")), tiny_sd[1]


@pytest.fixture(scope="module")
def inference():
    """As in the host, which draws without gradients."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def nano(inference):
    """vega-nano as Load Vega gives it: (model, clip, vae)."""
    return checkpoint.load(checkpoint.NANO_DIR, "tiny", [])


@pytest.fixture
def reset_cpu_unet(nano):
    """What a test makes of vega-nano for the processor is gone after it."""
    from cpu_drawing import forget

    yield
    forget(nano[0])


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setattr(openvino_graph, "INSTALLED", False)


@pytest.fixture(scope="module")
def graph_cache(tmp_path_factory):
    """A folder of graphs for this file alone, empty at first."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def few_step(nano):
    return lora.apply(nano[0], checkpoint.NANO_LORA, 1.0)


@pytest.fixture(scope="module")
def positive(nano):
    return nano[1].encode_from_tokens_scheduled(nano[1].tokenize("night, desert, full moon"))


def pytest_sessionstart(session):
    """vega-nano's OpenVINO graphs, made once on a machine.

    Else the first server of a run would draw on packed weights while it makes them, and then with them: within rounding,
    but not to the last bit, which some tests compare.
    """
    if hasattr(session.config, "workerinput") or not openvino_graph.INSTALLED:
        return  # the process that starts the workers does it
    model, _, vae = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
    unet_config, decoder = model.model.model_config.unet_config, vae.first_stage_model.taesd_decoder
    cpu_unet.convert(unet_config, cpu_unet.graph_file(unet_config))
    cpu_decoder.convert(decoder, cpu_decoder.graph_file(decoder))


def pytest_configure(config):
    """Full-size runs take hours: they are started only where -m names them."""
    asked = config.option.markexpr
    if "soak" not in asked:
        config.option.markexpr = f"({asked}) and not soak" if asked else "not soak"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What the test files import stays: Python need not look through it for garbage, now or in any test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(config, items):
    """The longest files first, in this order: the workers of `make test` take whole files, and should end together."""
    for item in items:
        for name in tiers.of(item):
            item.add_marker(name)
    config.stash[tiers.COLLECTED] = list(items)
    longest = ("train", "serve", "nano", "train_node", "beside_a_stranger", "api_keys", "api_concurrency", "bases", "fuzz")
    longest += ("lora", "train_parts", "accelerate", "browser_templates", "browser", "browser_faces", "operators")
    longest += ("protected", "server", "openapi")
    place = {f"test_{name}": k for k, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
