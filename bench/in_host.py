"""Makes ComfyUI's modules importable in this process, which then is like its server's; to be imported before them."""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "dev"))

import host  # noqa: E402

sys.path.insert(0, str(host.path()))

from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()
