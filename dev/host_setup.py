"""Makes ComfyUI's modules importable in this process, which then is like its server's, on the CPU where there is no GPU.

Import it before any module of the host.
"""

import importlib.util
import os
import sys

import torch

from .host import ROOT, path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(path()))

import utils.extra_config  # noqa: E402, F401  (first, as in main.py: ComfyUI 0.24's nodes.py hides it behind comfy/utils.py)
from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()


def load_pack() -> None:
    """Loads the pack as the host does, as `vega_pack`."""
    spec = importlib.util.spec_from_file_location("vega_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["vega_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["vega_pack"])
