"""What ComfyUI itself and this pack make of a LoRA file."""

import comfy.lora
from safetensors.torch import load_file
from vega_pack.vega import checkpoint, style_lora


def host_modules(file, path):
    """On how many modules the host's own LoRA code and ours put the file, and how many it has."""
    tensors = load_file(file)
    model, clip, _ = checkpoint.load(path, "tiny", [])
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, comfy.lora.model_lora_keys_unet(model.model, {}))
    loaded = comfy.lora.load_lora(dict(tensors), keys, log_missing=False)
    patched = len(model.clone().add_patches(loaded, 1.0)) + len(clip.clone().add_patches(loaded, 1.0))
    applied = style_lora.apply(model, clip, file, 1.0, 1.0)[2]
    return patched, applied.modules + applied.text_modules, sum(name.endswith(".alpha") for name in tensors)
