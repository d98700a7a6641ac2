"""Models distilled from Stable Diffusion 1.5, and what is made for the blocks of that one."""

import re

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

# Input blocks of SD 1.5 whose skip connections each small model still has: conv_in, then a residual block and a
# downsampler a level, of two residual blocks and a downsampler.
KEPT = {"small-sd": [0, 1, 3, 4, 6, 7, 9, 10], "tiny-sd": [0, 1, 3, 4, 6, 7]}
each_small = pytest.mark.parametrize("family", KEPT)


def randomized(module, scale=0.05):
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return module


def sd15_controlnet(width=64):
    """The host's ControlNet for a narrow Stable Diffusion 1.5, with random weights."""
    config = dict(image_size=32, in_channels=4, model_channels=width, hint_channels=3)
    config |= dict(num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4])
    config |= dict(transformer_depth=[1] * 6 + [0] * 2, transformer_depth_middle=1, context_dim=64, num_heads=8)
    config |= dict(use_spatial_transformer=True, legacy=False, dtype=torch.float32, device="cpu")
    net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.disable_weight_init)
    return comfy.controlnet.ControlNet(randomized(net), load_device=torch.device("cpu"))


def replacement(seen):
    def replace(q, k, v, extra_options):
        seen.append(extra_options["block"])
        return optimized_attention(q, k, v, heads=extra_options["n_heads"]) + 1.0

    return replace


def attention(pairs):
    return {name: sides for name, sides in pairs.items() if re.search(r"attn|ff\.|proj_", name)}
