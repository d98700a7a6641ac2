"""A diffusers model's parts as one checkpoint file in the LDM layout (Stability's), in fp16.

It is the layout of sd_xl_base_1.0.safetensors, of the single files of SSD-1B and Segmind-Vega, and of SD 1.5's.
"""

import re
from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from vega import encoder_files, single_file, unet_keys

from .base import FIRST_ENCODER, SECOND_ENCODER

BLOCKS_OF_LEVEL = 2  # residual blocks going down, of every UNet that has this layout; one more going up
NON_BLOCK_KEYS = {diffusers: ldm for ldm, diffusers in unet_keys.OUTSIDE_BLOCKS.items()}
RESNET = {diffusers: ldm for ldm, diffusers in unet_keys.RESNET_NAMES.items()}
AUTOENCODER = (
    (r"encoder\.down_blocks\.(\d+)\.resnets", r"encoder.down.\1.block"),
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
)
VAE_UP_BLOCK_PATTERN = re.compile(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0)")
UP_PARTS = {"resnets": "block", "upsamplers.0": "upsample"}
OPEN_CLIP = {
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_model.encoder.layers": "transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm": "ln_",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
QUERY, KEY_AND_VALUE = "self_attn.q_proj.", ("self_attn.k_proj.", "self_attn.v_proj.")


def has_layout(unet: UNet2DConditionModel, vae: AutoencoderKL | AutoencoderTiny) -> bool:
    """Whether there are files in this layout of such a model; small-sd, tiny-sd and tiny autoencoders have none."""
    resnets = {len(block.resnets) for block in unet.down_blocks}
    return isinstance(vae, AutoencoderKL) and len(vae.decoder.up_blocks) == 4 and resnets == {BLOCKS_OF_LEVEL}


def tensors(
    unet: UNet2DConditionModel, vae: AutoencoderKL, encoders: dict[str, encoder_files.Encoder]
) -> dict[str, torch.Tensor]:
    """What the file holds, as it is in the modules; the encoders by the host's names, clip_g only in SDXL's family."""
    state_dict = {single_file.UNET_PREFIX + unet_key(name, unet): tensor for name, tensor in unet.state_dict().items()}
    levels = len(vae.decoder.up_blocks)
    for name, tensor in vae.state_dict().items():
        state_dict[single_file.VAE_PREFIX + autoencoder_key(name, levels)] = linear_to_conv1x1(name, tensor)
    first = encoder_files.normalize_keys(encoders["clip_l"].state_dict, True, 0)
    prefix = FIRST_ENCODER["clip_g" not in encoders]
    state_dict |= {prefix + name: tensor for name, tensor in first.items() if name.startswith("text_model.")}
    if "clip_g" in encoders:
        second = open_clip(encoder_files.normalize_keys(encoders["clip_g"].state_dict, True, 0))
        state_dict |= {SECOND_ENCODER + name: tensor for name, tensor in second}
    return state_dict


def unet_key(name: str, unet: UNet2DConditionModel) -> str:
    module, leaf = name.rsplit(".", 1)
    if module in NON_BLOCK_KEYS:
        return f"{NON_BLOCK_KEYS[module]}.{leaf}"
    place, *numbers, rest = name.split(".", 4 if name[0] != "m" else 3)
    if place == "mid_block":
        kind, number = numbers
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{block_weight_key(kind, rest)}"
    level, kind, number = int(numbers[0]), numbers[1], int(numbers[2])
    if kind == "downsamplers":
        return f"input_blocks.{(BLOCKS_OF_LEVEL + 1) * (level + 1)}.0.op.{leaf}"
    first = (BLOCKS_OF_LEVEL + 1) * level
    if kind == "upsamplers":
        attends = hasattr(unet.up_blocks[level], "attentions")
        return f"output_blocks.{first + BLOCKS_OF_LEVEL}.{1 + attends}.{rest}"
    side, block = ("input", 1 + first + number) if place == "down_blocks" else ("output", first + number)
    return f"{side}_blocks.{block}.{int(kind == 'attentions')}.{block_weight_key(kind, rest)}"


def block_weight_key(kind: str, rest: str) -> str:
    """A weight within a residual block or an attention, whose names are the same."""
    module, leaf = rest.rsplit(".", 1)
    return f"{RESNET[module]}.{leaf}" if kind == "resnets" else rest


def autoencoder_key(name: str, levels: int) -> str:
    if match := VAE_UP_BLOCK_PATTERN.match(name):
        name = f"decoder.up.{levels - 1 - int(match[1])}.{UP_PARTS[match[2]]}{name[match.end() :]}"
    for pattern, replacement in AUTOENCODER:
        name = re.sub(pattern, replacement, name)
    return name


def linear_to_conv1x1(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The autoencoder's attention is made of 1x1 convolutions in this layout."""
    return tensor[..., None, None] if ".attentions." in name and tensor.ndim == 2 else tensor


def open_clip(state_dict: dict[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """The second encoder's weights under open_clip's names, which has query, key and value in one."""
    for name, tensor in state_dict.items():
        if name == "text_projection.weight":
            yield "text_projection", tensor.T
        elif name == "text_model.embeddings.position_embedding.weight":
            yield "positional_embedding", tensor
        elif QUERY in name:
            parts = [tensor, *(state_dict[name.replace(QUERY, other)] for other in KEY_AND_VALUE)]
            yield to_open_clip_key(name).replace(QUERY, "attn.in_proj_"), torch.cat(parts)
        elif not any(other in name for other in KEY_AND_VALUE):
            yield to_open_clip_key(name), tensor


def to_open_clip_key(name: str) -> str:
    for theirs, ours in OPEN_CLIP.items():
        name = name.replace(theirs, ours)
    return name
