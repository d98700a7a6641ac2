"""LCM-LoRAs as the scripts that distil them save them: trained by PEFT, in kohya's keys, or in diffusers' own."""

import functools
import json
import math
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from lora_files import TARGETS
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from dev import diffusers_folders as folders

# The modules that diffusers' train_lcm_distill_lora_sdxl_wds.py adapts, and those of its scripts for styles.
EVERY = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
EVERY += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
ALPHA = 8
# As Chrome, Firefox, Safari and macOS name the second one; and the first.
NAMES = [f"pytorch_lora_weights{number}.safetensors" for number in ("", " (1)", "(1)", "-1", " 2")]
RT, SSD = "Segmind-VegaRT.safetensors", "lcm-lora-ssd-1b.safetensors"
SDXL, SD15 = "lcm-lora-sdxl.safetensors", "lcm-lora-sdv1-5.safetensors"
SDXL_BYTES, TCD_SDXL_BYTES, SD15_BYTES = 393_855_224, 393_854_624, 134_621_556


@functools.cache
def state(family: str, rank: int = 64, targets: tuple[str, ...] = tuple(EVERY)) -> dict[str, torch.Tensor]:
    """PEFT's state dict of an adapter on a family's UNet, its second matrices random as after training."""
    torch.manual_seed(1)
    config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(targets))
    found = get_peft_model_state_dict(inject_adapter_in_model(config, folders.unet(family)))
    return {k: 0.01 * torch.randn_like(v) if "lora_B" in k else v.detach() for k, v in found.items()}


def kohya(path: Path, *args, metadata=None) -> Path:
    """As the makers' own function (get_module_kohya_state_dict) names and saves an adapter; args: of state()."""
    tensors = {}
    for key, tensor in state(*args).items():
        name = "lora_unet_" + key.replace("base_model.model.", "").replace("lora_A", "lora_down").replace(
            "lora_B", "lora_up"
        )
        name = name.replace(".", "_", name.count(".") - 2)
        tensors[name] = tensor.half().contiguous()
        if "lora_down" in name:
            tensors[f"{name.split('.')[0]}.alpha"] = torch.tensor(ALPHA, dtype=torch.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)
    return path


def diffusers(path: Path, *args) -> Path:
    """As diffusers saves an adapter; the name is its own, so the file is renamed as a browser would; args: of state()."""
    StableDiffusionXLPipeline.save_lora_weights(path.parent, unet_lora_layers=state(*args))
    return (path.parent / "pytorch_lora_weights.safetensors").rename(path)


def at_published_size(path: Path, family: str, size: int) -> Path:
    """The header of a family's LCM-LoRA at its published dimensions, in a file of that many bytes; its data is a hole."""
    header, end = {}, 0
    for name, module in folders.full_size_unet(family).named_modules():
        if TARGETS.search(name) and hasattr(module, "weight"):
            out, *rest = module.weight.shape
            shapes = {"lora_down.weight": [64, *rest], "lora_up.weight": [out, 64, *[1] * (len(rest) - 1)], "alpha": []}
            for side, shape in shapes.items():
                begin, end = end, end + 2 * math.prod(shape)
                key = f"lora_unet_{name.replace('.', '_')}.{side}"
                header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    content = json.dumps(header, separators=(",", ":")).encode().ljust(size - end - 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)
    return path
