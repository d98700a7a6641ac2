"""Loads a checkpoint once in a process of its own: `python load_once.py ours|core PATH OUT` prints seconds and peak bytes.

The UNet's answer to a fixed question goes into the file OUT, so that two loaders can be compared.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".host" / "ComfyUI-0.30.0").resolve()
sys.path.insert(0, str(HOST))
sys.path.append(str(ROOT / "bench" / "probe"))

import torch  # noqa: E402
from comfy.cli_args import args  # noqa: E402

args.cpu = not torch.cuda.is_available()

import comfy.diffusers_load  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
from memory import peak  # noqa: E402
from safetensors.torch import save_file  # noqa: E402


def ours(path: Path):
    spec = importlib.util.spec_from_file_location("vega_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["vega_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["vega_pack"])
    from vega_pack.vega import checkpoint

    return lambda: checkpoint.load(path, "full", [])


def core(path: Path):
    if path.is_dir():
        return lambda: comfy.diffusers_load.load_diffusers(str(path))
    return lambda: comfy.sd.load_checkpoint_guess_config(str(path))[:3]


if __name__ == "__main__":
    who, path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    load = {"ours": ours, "core": core}[who](path)
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
