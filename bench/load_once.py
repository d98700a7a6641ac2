"""Loads a checkpoint once in a process of its own: `python -m bench.load_once ours|core PATH OUT` prints its
seconds and peak bytes.

The UNet's answer to a fixed question goes into the file OUT, so that two loaders can be compared.
"""

import json
import sys
import time
from pathlib import Path

from dev import host_setup

# isort: split
import comfy.diffusers_load
import comfy.model_management
import comfy.sd
import torch
from safetensors.torch import save_file

from .profiler.memory import peak


def pack_loader(path: Path):
    host_setup.load_pack()
    from vega_pack.vega import checkpoint

    return lambda: checkpoint.load(path, "full", [])


def core_loader(path: Path):
    if path.is_dir():
        return lambda: comfy.diffusers_load.load_diffusers(str(path))
    return lambda: comfy.sd.load_checkpoint_guess_config(str(path))[:3]


if __name__ == "__main__":
    who, path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    load = {"ours": pack_loader, "core": core_loader}[who](path)
    with torch.inference_mode():
        began = time.perf_counter()
        model, clip, vae = load()
        seconds = time.perf_counter() - began
        most = peak()["resident"]
        comfy.model_management.load_models_gpu([model])
        generator = torch.Generator().manual_seed(0)
        dtype, device = model.model.get_dtype(), model.load_device
        x, context, y = (torch.randn(*s, generator=generator) for s in ((1, 4, 8, 8), (1, 77, 2048), (1, 2816)))
        x, context, y = (t.to(device, model.model.manual_cast_dtype or dtype) for t in (x, context, y))
        answer = model.model.diffusion_model(x, torch.tensor([499.0], device=device), context=context, y=y)
        save_file({"answer": answer.float().cpu()}, out)
    print(json.dumps({"seconds": seconds, "peak": most}))
