"""Finds the host, keeps it on the CPU where there is no GPU, and loads the pack as the host does, as `vega_pack`."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "ComfyUI-0.30.0").resolve()
if not (HOST / "main.py").is_file():
    pytest.exit(f"No ComfyUI in {HOST}: run `make test`, which fetches it, or set COMFYUI_PATH.", returncode=2)

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(HOST))
sys.path += [str(ROOT / "dev"), str(ROOT / "tests")]

from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()

spec = importlib.util.spec_from_file_location("vega_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["vega_pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["vega_pack"])


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The real ComfyUI server with this pack, one for the whole run; models dropped into server.base/models are seen."""
    import comfyui

    with comfyui.serve(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture
def client(server):
    with server.connect() as connected:
        yield connected
