"""What a UNet's weights tell about it: diffusers' names for those of a single file, and the config.json that it lacks."""

import re
from collections.abc import Iterable

import torch

RESNET_NAMES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
OUTSIDE_BLOCKS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
MODULE_PATTERN = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:(\d+)\.)?(.+)")
BLOCK_LISTS = {"input_blocks": "down_blocks", "output_blocks": "up_blocks"}
CHANNELS_PER_HEAD = 64  # of every SDXL-shaped UNet; it cannot be seen in the weights
ADDITION_TIME_EMBED_DIM = 256  # of every SDXL-shaped UNet, for each of six
SD15_HEADS = 8  # of every UNet of Stable Diffusion 1's shape


def ldm_to_diffusers(keys: list[str]) -> dict[str, str]:
    """Name of each UNet weight in a single file (the LDM layout) -> diffusers' name.

    Blocks are told apart by what they hold, not by their numbers: a UNet with one residual block a level, converted by
    diffusers' own script (scripts/convert_diffusers_to_original_stable_diffusion.py), has gaps in its numbers, an
    upsampler beside the block that it belongs to, and some of diffusers' names left in.
    """
    blocks: dict[tuple[str, int], dict[int, list[tuple[str, str]]]] = {}
    names = {}
    for key in keys:
        module, _, leaf = key.rpartition(".")
        if module in OUTSIDE_BLOCKS:
            names[key] = f"{OUTSIDE_BLOCKS[module]}.{leaf}"
        elif (match := MODULE_PATTERN.fullmatch(key)) and match[1] in BLOCK_LISTS and match[3]:
            side, block, part, rest = match.groups()
            blocks.setdefault((side, int(block)), {}).setdefault(int(part), []).append((key, rest))
        elif match and match[1] == "middle_block":
            part, rest = int(match[2]), key.removeprefix(f"middle_block.{match[2]}.")
            place = "attentions.0" if part == 1 else f"resnets.{part // 2}"
            names[key] = f"mid_block.{place}.{resnet_key(rest)}"
        else:
            names[key] = key
    for side in BLOCK_LISTS:
        level = resnet = 0
        for _, parts in sorted((number, parts) for (of, number), parts in blocks.items() if of == side):
            kinds = {part: part_kind(rest for _, rest in weights) for part, weights in parts.items()}
            place = f"{BLOCK_LISTS[side]}.{level}"
            for part, weights in parts.items():
                for key, rest in weights:
                    names[key] = {
                        "resnet": f"{place}.resnets.{resnet}.{resnet_key(rest)}",
                        "attention": f"{place}.attentions.{resnet}.{rest}",
                        "downsampler": f"{place}.downsamplers.0.conv.{rest.removeprefix('op.')}",
                        "upsampler": f"{place}.upsamplers.0.{rest}",
                    }[kinds[part]]
            resnet += "resnet" in kinds.values()
            if {"downsampler", "upsampler"} & set(kinds.values()):
                level, resnet = level + 1, 0
    return names


def part_kind(names: Iterable[str]) -> str:
    """Which part of a block has weights of these names."""
    first = {name.split(".")[0] for name in names}
    if "op" in first:
        return "downsampler"
    if "conv" in first:
        return "upsampler"
    return "resnet" if first & {"in_layers", "out_layers", "emb_layers", "skip_connection"} else "attention"


def resnet_key(rest: str) -> str:
    """diffusers' name of a weight within a residual block; that of an attention is the same in both."""
    module, _, leaf = rest.rpartition(".")
    return f"{RESNET_NAMES.get(module, module)}.{leaf}"


def infer_config(state_dict: dict[str, torch.Tensor]) -> dict:
    """The config.json of the UNet2DConditionModel that has these weights; KeyError where they are not one's.

    Its heads are its family's, 64 channels each in SDXL's and eight in Stable Diffusion 1's.
    """
    shapes = {name: list(tensor.shape) for name, tensor in state_dict.items()}
    xl = "add_embedding.linear_1.weight" in shapes

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})

    def depths(block: str) -> list[int]:
        attentions = count(f"{block}.attentions.")
        return [count(f"{block}.attentions.{i}.transformer_blocks.") for i in range(attentions)]

    levels = range(count("down_blocks."))
    channels = [shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels]
    down, up = ([depths(f"{side}.{i}") for i in levels] for side in ("down_blocks", "up_blocks"))
    middle = depths("mid_block")
    attention = next((name.removesuffix("proj_in.weight") for name in shapes if name.endswith("proj_in.weight")), "")
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": [count(f"down_blocks.{i}.resnets.") for i in levels],
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in down],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in up],
        "mid_block_type": ("UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D") if count("mid_block.") else None,
        # The middle block's depth is that of the last level, where it has attention at all.
        "transformer_layers_per_block": [d or middle or 1 for d in down],
        "reverse_transformer_layers_per_block": [d or 1 for d in up],
        "cross_attention_dim": shapes[f"{attention}transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{attention}proj_in.weight"]) == 2,
        "attention_head_dim": [max(1, c // CHANNELS_PER_HEAD) for c in channels] if xl else SD15_HEADS,
        "addition_embed_type": "text_time" if xl else None,
        "addition_time_embed_dim": ADDITION_TIME_EMBED_DIM if xl else None,
        "projection_class_embeddings_input_dim": shapes["add_embedding.linear_1.weight"][1] if xl else None,
    }
