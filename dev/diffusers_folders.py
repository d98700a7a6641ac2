"""Diffusers folders with random weights and the real families' block structures, narrow enough for a test."""

import copy
import functools
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SDXL = dict(
    block_out_channels=(64, 128, 256),
    down_block_types=("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, "UpBlock2D"),
    attention_head_dim=[1, 2, 4],
    layers_per_block=2,
    cross_attention_dim=128,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=6 * 256 + 64,
)
SD = dict(cross_attention_dim=64, attention_head_dim=8)
# Every block of the published models, in less width: where they are deepest, less still.
NARROW = dict(block_out_channels=(32, 64, 128), attention_head_dim=[1, 1, 2])
FAMILIES = {
    "Segmind-Vega": {**SDXL, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]},
    "SSD-1B": {
        **SDXL,
        **NARROW,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, 2, 4],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "SDXL": {
        **SDXL,
        **NARROW,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "transformer_layers_per_block": [1, 2, 10],
    },
    "SD 1.5": {
        **SD,
        "block_out_channels": (64, 128, 256, 256),
        "layers_per_block": 2,
    },
    "small-sd": {
        **SD,
        "block_out_channels": (64, 128, 256, 256),
        "layers_per_block": 1,
    },
    "tiny-sd": {
        **SD,
        "block_out_channels": (64, 128, 256),
        "down_block_types": (CROSS_DOWN,) * 3,
        "up_block_types": (CROSS_UP,) * 3,
        "mid_block_type": None,
        "layers_per_block": 1,
    },
}

SDXL_PUBLISHED = dict(block_out_channels=(320, 640, 1280), attention_head_dim=[5, 10, 20], cross_attention_dim=2048)
SDXL_PUBLISHED |= dict(projection_class_embeddings_input_dim=2816)
SD15_PUBLISHED = dict(cross_attention_dim=768)
# What differs at the published dimensions.
PUBLISHED_SIZES = dict.fromkeys(("Segmind-Vega", "SSD-1B", "SDXL"), SDXL_PUBLISHED)
PUBLISHED_SIZES |= dict.fromkeys(("SD 1.5", "small-sd"), {**SD15_PUBLISHED, "block_out_channels": (320, 640, 1280, 1280)})
PUBLISHED_SIZES["tiny-sd"] = {**SD15_PUBLISHED, "block_out_channels": (320, 640, 1280)}


def full_size_unet(family: str) -> UNet2DConditionModel:
    """The family's UNet at its published dimensions, on the meta device."""
    with torch.device("meta"):
        config = FAMILIES[family] | PUBLISHED_SIZES[family]
        return UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **config)


def unet(family: str) -> UNet2DConditionModel:
    return UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **FAMILIES[family])


def text_config(hidden_act: str, pad: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=64,
        intermediate_size=128,
        projection_dim=64,
        num_hidden_layers=4,
        num_attention_heads=1,  # 64 channels each, as in every published CLIP: a single file cannot say otherwise
        hidden_act=hidden_act,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=pad,
    )


def text_encoders(family: str) -> list[CLIPTextModel]:
    first = CLIPTextModel(text_config("quick_gelu", 49407))
    if "addition_embed_type" in FAMILIES[family]:
        return [first, CLIPTextModelWithProjection(text_config("gelu", 0))]
    return [first]


@functools.cache
def cached_modules(family: str, vae: str) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    parts = {"unet": unet(family), "vae": AutoencoderTiny() if vae == "tiny" else full_autoencoder()}
    parts.update(zip(("text_encoder", "text_encoder_2"), text_encoders(family), strict=False))
    if vae == "full":
        parts["vae"].register_to_config(scaling_factor=0.13025 if "text_encoder_2" in parts else 0.18215)
    return {name: module.eval() for name, module in parts.items()}


def modules(family: str, vae: str = "tiny") -> dict[str, torch.nn.Module]:
    """diffusers' modules of the family (unet, text encoders, vae) with random weights, the same every time."""
    return copy.deepcopy(cached_modules(family, vae))


def write(
    folder: Path,
    family: str,
    vae: str = "tiny",
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    **saved,
) -> dict[str, torch.nn.Module]:
    """A whole folder of the family; returns its diffusers modules for comparison. saved: options of save_pretrained."""
    parts = modules(family, vae)
    for name, module in parts.items():
        module.to(dtype).save_pretrained(folder / name, variant=variant, **saved)
    (folder / "model_index.json").write_text("{}")
    return parts


def full_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
