"""A diffusers UNet folder as the host's MODEL, for any SDXL- or SD-shaped config.json."""

import json
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from . import weights

# What the host's UNet class can be; anything else is refused by name instead of drawn wrong.
REQUIRED = {
    "act_fn": ("silu",),
    "addition_embed_type": (None, "text_time"),
    "addition_time_embed_dim": (None, 256),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "in_channels": (4,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": (None, "UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    "norm_eps": (1e-5,),
    "norm_num_groups": (32,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "out_channels": (4,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
# UNet2DConditionModel's own default, where a config.json of an older diffusers leaves the key out.
DEFAULTS = {"mid_block_type": "UNetMidBlock2DCrossAttn"}


class SDXLShaped(comfy.supported_models.SDXL):
    """Any width and depth of SDXL's architecture; the head sizes come from config.json, not from the class."""

    unet_config = {}
    unet_extra_config = {}


class SDShaped(comfy.supported_models.SD15):
    """Any width and depth of Stable Diffusion 1's architecture."""

    unet_config = {}
    unet_extra_config = {}


def load(folder: Path) -> comfy.model_patcher.ModelPatcher:
    """MODEL from folder/config.json and its weights; ValueError where the host could not draw it exactly."""
    config_file = folder / "config.json"
    config = host_config(json.loads(config_file.read_text(encoding="utf-8")), config_file)
    path = weights.find(folder, "diffusion_pytorch_model")
    found, _ = weights.read(path)
    family = SDXLShaped if config["adm_in_channels"] else SDShaped
    model_config = family(config)
    load_device = comfy.model_management.get_torch_device()
    dtypes = model_config.supported_inference_dtypes
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(found),
        supported_dtypes=dtypes,
        weight_dtype=comfy.utils.weight_dtype(found),
    )
    manual_cast = comfy.model_management.unet_manual_cast(dtype, load_device, dtypes)
    model_config.set_inference_dtype(dtype, manual_cast, device=load_device)
    model = model_config.get_model({})
    native = UNetModel(**model_config.unet_config, device="meta", operations=weights.EagerOps).state_dict()
    names = diffusers_names(config, native)
    weights.check(path, found, {name: native[key] for name, key in names.items()})
    # With dynamic VRAM the host's Linear takes its dtype from the tensors it is given: cast them before.
    state_dict = {names[name]: tensor.to(dtype) for name, tensor in found.items()}
    offload_device = comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)
    model.to(offload_device)
    model.load_model_weights(state_dict)
    return patcher


def diffusers_names(config: dict, native: dict[str, torch.Tensor]) -> dict[str, str]:
    """diffusers' name of each weight in the UNet's state dict -> the host's name, for the host's UNet config."""
    renamed = comfy.utils.unet_to_diffusers(config)
    # The host lists SDXL's add_embedding under a second name, that of an option which REQUIRED rules out.
    return {name: key for name, key in renamed.items() if key in native and not name.startswith("class_embedding.")}


def host_config(config: dict, path: Path) -> dict:
    """config.json of a UNet2DConditionModel -> the arguments of the host's UNetModel."""
    config = {**DEFAULTS, **config}
    for option, allowed in REQUIRED.items():
        value = config.get(option, allowed[0])
        if value not in allowed:
            raise ValueError(f"{path}: {option} = {value!r} is not supported (only {' or '.join(map(repr, allowed))}).")
    channels = config["block_out_channels"]
    levels = len(channels)
    down, up = config["down_block_types"], config["up_block_types"]
    for option, types, allowed in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        if unknown := [t for t in types if t not in allowed]:
            raise ValueError(f"{path}: {option} contains {unknown[0]!r}; only {' and '.join(allowed)} are supported.")
    if any(c % channels[0] for c in channels):
        raise ValueError(f"{path}: block_out_channels {channels} are not whole multiples of the first.")

    layers = per_level(config["layers_per_block"], levels)
    depths = per_level(config.get("transformer_layers_per_block", 1), levels)
    up_depths = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    down_attention = [t == "CrossAttnDownBlock2D" for t in down]
    up_attention = [t == "CrossAttnUpBlock2D" for t in up]
    depth_in = [d for level in range(levels) for d in block_depths(depths[level], layers[level], down_attention[level])]
    depth_out = [
        d for level in range(levels) for d in block_depths(up_depths[level], layers[-1 - level] + 1, up_attention[level])
    ]
    middle = {
        None: -2,  # no middle block
        "UNetMidBlock2D": -1,  # one residual block
        "UNetMidBlock2DCrossAttn": block_depths(depths[-1], 1, True)[0],
    }[config["mid_block_type"]]

    # diffusers calls the number of heads "attention_head_dim" (huggingface/diffusers#2011).
    heads = per_level(config.get("num_attention_heads") or config.get("attention_head_dim", 8), levels)
    attended = [level for level in range(levels) if down_attention[level]]
    if not attended:
        raise ValueError(f"{path}: a UNet without cross attention is not supported.")
    if len({heads[level] for level in attended}) == 1:
        head_settings = {"num_heads": heads[attended[0]], "num_head_channels": -1}
    elif len({channels[level] / heads[level] for level in attended}) == 1:
        head_settings = {"num_heads": -1, "num_head_channels": channels[attended[0]] // heads[attended[0]]}
    else:
        raise ValueError(f"{path}: attention_head_dim {heads} gives neither equal heads nor heads of equal size.")

    text_time = config.get("addition_embed_type") == "text_time"
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": channels[0],
        "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": layers,
        "transformer_depth": depth_in,
        "transformer_depth_output": depth_out[::-1],  # the host takes them from the end
        "transformer_depth_middle": middle,
        "context_dim": config["cross_attention_dim"],
        "adm_in_channels": config["projection_class_embeddings_input_dim"] if text_time else None,
        "num_classes": "sequential" if text_time else None,
        "use_linear_in_transformer": config.get("use_linear_projection", False),
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_checkpoint": False,
        "legacy": False,
        **head_settings,
    }


def per_level(value, levels: int) -> list:
    """A config entry that may be one value for all levels or a list of one each."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * levels


def block_depths(depth, blocks: int, attention: bool) -> list[int]:
    """Transformer layers of each block of a level: none without attention; SSD-1B gives every block its own."""
    if not attention:
        return [0] * blocks
    return list(depth) if isinstance(depth, (list, tuple)) else [depth] * blocks
