"""The CLIP text encoders of a diffusers folder as the host's CLIP, with the host's own tokenizer and prompt syntax."""

import json
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import torch

from . import weights

# What the host's CLIPTextModel can be (comfy/clip_model.py).
REQUIRED = {
    "eos_token_id": (49407, 2),  # old configs say 2 and mean 49407 (huggingface/transformers#24773)
    "layer_norm_eps": (1e-5,),
    "max_position_embeddings": (77,),
    "vocab_size": (49408,),
}
# CLIP-L's activation and CLIP-G's; a first encoder with CLIP-H's is Stable Diffusion 2, whose prompts are padded otherwise.
ACTIVATION = {"clip_l": "quick_gelu", "clip_g": "gelu"}
USED = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
)


def load(folder: Path, embedding_directory: list[str]) -> comfy.sd.CLIP:
    """CLIP from folder/text_encoder and, for the SDXL family, folder/text_encoder_2."""
    parts = {"clip_l": folder / "text_encoder"}
    if (folder / "text_encoder_2").is_dir():
        parts["clip_g"] = folder / "text_encoder_2"
        classes = comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel
    else:
        classes = comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    options = {f"{name}_model_config": host_config(part / "config.json", ACTIVATION[name]) for name, part in parts.items()}
    eager = {**options, "custom_operations": weights.EagerOps}
    needed = classes[1](device="meta", dtype=torch.float32, model_options=eager).state_dict()
    state_dict, stored_dtype = {}, torch.float16
    for name, part in parts.items():
        path = weights.find(part, "model")
        found, _ = weights.read(path)
        found = normalised(found, projected=name == "clip_g", hidden=options[f"{name}_model_config"]["hidden_size"])
        prefix = f"{name}.transformer."
        weights.check(path, found, {k.removeprefix(prefix): v for k, v in needed.items() if k.startswith(prefix)})
        state_dict.update({prefix + k: v for k, v in found.items()})
        stored_dtype = torch.promote_types(stored_dtype, found["text_projection.weight"].dtype)
    device = comfy.model_management.text_encoder_device()
    dtype = comfy.model_management.text_encoder_dtype(device)
    if comfy.model_management.is_device_cpu(device) and dtype == torch.float16:
        dtype = stored_dtype  # the host rounds to fp16 here, which saves no time on a CPU
    return comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(*classes),
        embedding_directory=embedding_directory,
        state_dict={k: v.to(dtype) for k, v in state_dict.items()},
        parameters=sum(v.numel() for v in state_dict.values()),
        model_options={**options, "dtype": dtype},
        disable_dynamic=True,
    )


def normalised(found: dict[str, torch.Tensor], projected: bool, hidden: int) -> dict[str, torch.Tensor]:
    """Names with the text_model. prefix that transformers 5 dropped, and a projection where the file has none."""
    found = {k: v for k, v in found.items() if not k.endswith("position_ids")}
    renamed = {k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v for k, v in found.items()}
    if not projected and "text_projection.weight" not in renamed:
        # The first encoder's pooled output is never used; the host's class has the layer all the same.
        dtype = next(iter(renamed.values())).dtype
        renamed["text_projection.weight"] = torch.eye(hidden, dtype=dtype)
    return renamed


def host_config(path: Path, activation: str) -> dict:
    """config.json of a CLIPTextModel -> what the host's CLIPTextModel reads; ValueError on what it can't be."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for option, allowed in {**REQUIRED, "hidden_act": (activation,)}.items():
        if config.get(option, allowed[0]) not in allowed:
            raise ValueError(
                f"{path}: {option} = {config[option]!r} is not supported (only {' or '.join(map(repr, allowed))})."
            )
    if config["num_hidden_layers"] < 3:
        raise ValueError(f"{path}: {config['num_hidden_layers']} layers; the host needs at least 3.")
    return {option: config[option] for option in USED}
