"""Weights that are no plain model of the SDXL or SD 1.5 family, identified by their names, in words for an error."""

import re
from pathlib import Path

import torch

FAMILIES = "models of the SDXL and SD 1.5 families"
PLAIN_SUFFIXES = (".weight", ".bias")
# Who quantised: endings of the names that only their files have.
QUANTISATION_PATTERNS = {
    "bitsandbytes": re.compile(r"\.(nested_)?(absmax|quant_map)$|\.quant_state\.bitsandbytes__\w+$|\.(SCB|weight_format)$"),
    "scaled fp8 or the like": re.compile(
        r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale(_2)?|input_scale|comfy_quant)$"
    ),
    "GPTQ, AWQ or SVDQuant": re.compile(r"\.(qweight|qzeros|g_idx|wscales)$"),
    "quanto": re.compile(r"\.weight\._(data|scale|shift)$"),
    "torchao": re.compile(r"(\._weight_|:_?)(qdata|int_data|data|scale|zero_point)$"),
}
# Of LoRA layers (PEFT's, diffusers' older ones), and of what PEFT wraps in them.
LORA_KEYS = re.compile(r"^lora_(unet|te\d?)_|[._]lora[._](A|B|down|up|embedding|magnitude|layer)|\.(hada|lokr)_w")
WRAPPED_KEYS = re.compile(r"\.base_layer\.|\.modules_to_save\.|\.original_module\.|^base_model\.model\.")
ADAPTER_KEYS = re.compile(f"{LORA_KEYS.pattern}|{WRAPPED_KEYS.pattern}")
ALPHA_KEYS = re.compile(r"\.(alpha|dora_scale)$")
GUIDANCE_KEYS = ("time_embedding.cond_proj.weight", "time_embed.cond_proj.weight")
# Models of other families, under whatever prefix.
OTHER_MODELS = (
    (re.compile(r"(^|\.)joint_blocks\."), "a Stable Diffusion 3 model"),
    (re.compile(r"(^|\.)double_blocks\."), "a Flux model, or one of its kind"),
    (re.compile(r"^(transformer\.)?(single_)?transformer_blocks\.|\.adaLN_modulation\."), "a diffusion transformer"),
)
# What a file is that holds no UNet under a checkpoint's names; the first that fits.
FILE_KINDS = (
    (LORA_KEYS, "a LoRA, which belongs in models/loras"),
    (
        re.compile(r"^control_model\.|^controlnet_|(^|\.)zero_convs\.|(^|\.)input_hint_block\."),
        "a ControlNet, which belongs in models/controlnet",
    ),
    (re.compile(r"^(ip_adapter|image_proj)\b"), "an IP-Adapter"),
    (re.compile(r"^model_ema\."), "the EMA weights of a training run alone; use the file of the whole model"),
    *((names, f"{model}; Load Vega takes {FAMILIES}") for names, model in OTHER_MODELS),
    (
        re.compile(r"^((model\.)?diffusion_model\.|unet\.)?(down_blocks|input_blocks)\."),
        "a UNet alone; Load Vega needs the whole model, with its text encoders",
    ),
    (
        re.compile(r"(^|\.)(text_model|token_embedding|text_projection|resblocks)\b|^(shared|encoder\.block)\."),
        "a text encoder alone; Load Vega needs the whole model",
    ),
    (
        re.compile(r"^(taesd_)?(encoder|decoder)\.(layers\.)?\d+\.|^\d+\.(conv\.|weight)"),
        "a tiny autoencoder, which belongs in models/vae_approx",
    ),
    (
        re.compile(r"^(first_stage_model\.)?((encoder|decoder)\.(down|up|mid)|(post_)?quant_conv)"),
        "an autoencoder (VAE) alone; Load Vega needs the whole model",
    ),
    (re.compile(r"^(emb_params|clip_l|clip_g|string_to_param)$"), "a textual inversion, which belongs in models/embeddings"),
)


def check(path: Path, state_dict: dict[str, torch.Tensor]) -> None:
    """ValueError where these are the weights of a model, but not such as can be loaded as they are."""
    if by := detect_quantisation(state_dict):
        raise ValueError(
            f"{path} is quantised ({by}). Only weights in fp32, fp16 or bf16 are supported: take the model in one of these."
        )
    if any(name.endswith(GUIDANCE_KEYS) for name in state_dict):
        raise ValueError(
            f"{path} is a full LCM, not a base: its UNet takes the guidance as an input (time_embedding.cond_proj), which "
            "is not supported. Use the model that it was distilled from, with an LCM-LoRA."
        )
    adapters = [name for name in state_dict if ADAPTER_KEYS.search(name)]
    # A LoRA alone, which is another mistake.
    is_lora = all(LORA_KEYS.search(name) or ALPHA_KEYS.search(name) for name in state_dict)
    if adapters and not is_lora:
        raise ValueError(
            f"{path} was saved with an adapter in it that is not merged ({adapters[0]}). Merge it or unload it before "
            "saving (PEFT: merge_and_unload; diffusers: fuse_lora, then unload_lora_weights), or use the model without it."
        )


def detect_quantisation(state_dict: dict[str, torch.Tensor]) -> str | None:
    """How the weights are quantised, with a name that shows it; None where they are not."""
    odd = [name for name in state_dict if not name.endswith(PLAIN_SUFFIXES)]
    for tool, names in QUANTISATION_PATTERNS.items():
        if name := next((name for name in odd if names.search(name)), None):
            return f"{tool}: {name}"
    integers = (name for name, t in state_dict.items() if t.ndim > 1 and t.dtype in (torch.int8, torch.uint8))
    name = next(integers, None)
    return name and f"{name} is {str(state_dict[name].dtype).removeprefix('torch.')}"


def describe_file(state_dict: dict[str, torch.Tensor]) -> str:
    """What a file without a UNet's checkpoint names is, as far as can be told."""
    if not state_dict:
        return "empty"
    kind = next((words for names, words in FILE_KINDS if any(names.search(name) for name in state_dict)), None)
    return kind or f"something with keys like {next(iter(state_dict))!r}; Load Vega takes {FAMILIES}"


def identify_other_family(state_dict: dict[str, torch.Tensor]) -> str | None:
    """The family that these weights of a diffusion model are of, if it is known and another one."""
    return next((model for names, model in OTHER_MODELS if any(names.search(name) for name in state_dict)), None)
