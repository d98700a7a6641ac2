"""config.json of a UNet2DConditionModel as arguments of the host's UNetModel, or refused; nothing here needs the host."""

from pathlib import Path

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
DOWN_BLOCK_TYPES = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCK_TYPES = ("UpBlock2D", "CrossAttnUpBlock2D")
# UNet2DConditionModel's own defaults, where a config.json of an older diffusers leaves the key out.
DEFAULTS = {
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1280,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
# The most that each number may be; far above every model of these families, far below what would fill the memory.
MAX_VALUES = {
    "attention_head_dim": 512,
    "block_out_channels": 8192,
    "cross_attention_dim": 8192,
    "layers_per_block": 16,
    "num_attention_heads": 512,
    "projection_class_embeddings_input_dim": 16384,
    "reverse_transformer_layers_per_block": 64,
    "transformer_layers_per_block": 64,
}
DEPTH_OPTIONS = ("transformer_layers_per_block", "reverse_transformer_layers_per_block")
MAX_LEVELS = 8
REFINER_MESSAGE = "the SDXL refiner's, which only refines another model's pictures and is not supported: load the base model"
MAX_TRANSFORMER_LAYERS = 512
# What a refused option is known as, for who chose the wrong file.
KNOWN_VARIANTS = {
    ("in_channels", 9): "an inpaint UNet",
    ("in_channels", 5): "a depth UNet",
    ("in_channels", 7): "an upscaling UNet",
    ("in_channels", 8): "an edit UNet",
    "time_cond_proj_dim": "a full LCM, whose UNet takes the guidance as an input: use the model that it was distilled from",
}


def host_config(config: dict, path: Path) -> dict:
    """config.json of a UNet2DConditionModel -> the arguments of the host's UNetModel."""
    config = DEFAULTS | {o: value for o, value in config.items() if value is not None or o == "mid_block_type"}
    weights.require(path, config, REQUIRED, KNOWN_VARIANTS)
    for option, most in MAX_VALUES.items():
        least = int(option not in DEPTH_OPTIONS)  # a level without attention may well have none
        if option in config and not is_int_or_nested(config[option], least, most):
            raise weights.unsupported_config(
                path, f"{option} = {config[option]!r} is not supported (only {least} to {most})"
            )
    channels, down, up = config["block_out_channels"], config["down_block_types"], config["up_block_types"]
    if not isinstance(channels, list) or any(isinstance(c, list) for c in channels) or len(channels) > MAX_LEVELS:
        raise weights.unsupported_config(
            path, f"block_out_channels = {channels!r} is not a list of up to {MAX_LEVELS} numbers"
        )
    levels = len(channels)
    for option, types, allowed in (("down_block_types", down, DOWN_BLOCK_TYPES), ("up_block_types", up, UP_BLOCK_TYPES)):
        if not isinstance(types, list) or len(types) != levels:
            raise weights.unsupported_config(
                path, f"{option} = {types!r} does not have one entry for each of block_out_channels"
            )
        if unknown := [t for t in types if t not in allowed]:
            raise weights.unsupported_config(
                path, f"{option} contains {unknown[0]!r}; only {' and '.join(allowed)} are supported"
            )
    if any(c % channels[0] or c % 32 for c in channels):
        raise weights.unsupported_config(
            path, f"block_out_channels {channels} are not whole multiples of the first and of 32"
        )

    def per_level(option: str) -> list:
        """An entry that may be one value for all levels or a list of one each."""
        value = config[option]
        entries = value if isinstance(value, list) else [value] * levels
        if len(entries) != levels:
            raise weights.unsupported_config(
                path, f"{option} = {value!r} does not have one entry for each of block_out_channels"
            )
        return entries

    def block_depths(option: str, depth, blocks: int, attention: bool) -> list[int]:
        """Transformer layers of each block of a level: none without attention; SSD-1B gives every block its own."""
        depths = depth if isinstance(depth, list) else [depth] * blocks
        if attention and (len(depths) != blocks or any(isinstance(d, list) or d == 0 for d in depths)):
            raise weights.unsupported_config(path, f"{option} gives {depth!r} to a level of {blocks} blocks")
        return depths if attention else [0] * blocks

    layers, depths = per_level("layers_per_block"), per_level("transformer_layers_per_block")
    up_option = "reverse_transformer_layers_per_block"
    up_depths = per_level(up_option) if config.get(up_option) else depths[::-1]
    if any(isinstance(n, list) for n in layers):
        raise weights.unsupported_config(path, f"layers_per_block = {layers!r} is not supported (only one number a level)")
    down_attention = [t == "CrossAttnDownBlock2D" for t in down]
    up_attention = [t == "CrossAttnUpBlock2D" for t in up]
    depth_in, depth_out = [], []
    for i in range(levels):
        depth_in += block_depths("transformer_layers_per_block", depths[i], layers[i], down_attention[i])
        depth_out += block_depths(up_option, up_depths[i], layers[-1 - i] + 1, up_attention[i])
    middle = {
        None: -2,  # no middle block
        "UNetMidBlock2D": -1,  # one residual block
        "UNetMidBlock2DCrossAttn": depths[-1][0] if isinstance(depths[-1], list) else depths[-1],
    }[config["mid_block_type"]]
    if not isinstance(middle, int) or middle == 0:
        raise weights.unsupported_config(path, f"transformer_layers_per_block gives {depths[-1]!r} to the middle block")
    if sum(depth_in + depth_out) > MAX_TRANSFORMER_LAYERS:
        raise weights.unsupported_config(
            path, f"{sum(depth_in + depth_out)} transformer layers; at most {MAX_TRANSFORMER_LAYERS}"
        )

    # diffusers calls the number of heads "attention_head_dim" (huggingface/diffusers#2011).
    heads = per_level("num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim")
    attended = [i for i in range(levels) if down_attention[i] or up_attention[-1 - i] or (i == levels - 1 and middle > 0)]
    if not attended:
        raise weights.unsupported_config(path, "a UNet without cross attention is not supported")
    if any(isinstance(heads[level], list) or channels[level] % heads[level] for level in attended):
        raise weights.unsupported_config(path, f"attention_head_dim {heads} does not divide the channels {channels}")
    if len({heads[level] for level in attended}) == 1:
        head_settings = {"num_heads": heads[attended[0]], "num_head_channels": -1}
    elif len({channels[level] / heads[level] for level in attended}) == 1:
        head_settings = {"num_heads": -1, "num_head_channels": channels[attended[0]] // heads[attended[0]]}
    else:
        raise weights.unsupported_config(
            path, f"attention_head_dim {heads} gives neither equal heads nor heads of equal size"
        )

    text_time = config.get("addition_embed_type") == "text_time"
    if text_time and not isinstance(config.get("projection_class_embeddings_input_dim"), int):
        raise ValueError(f"{path}: projection_class_embeddings_input_dim is missing. Download it again.")
    if not isinstance(config["cross_attention_dim"], int):
        raise weights.unsupported_config(
            path, f"cross_attention_dim = {config['cross_attention_dim']!r} is not supported (only a number)"
        )
    if text_time and config["cross_attention_dim"] == 1280:
        raise ValueError(f"{path}: cross_attention_dim = 1280 is {REFINER_MESSAGE}.")
    if not text_time and config["cross_attention_dim"] == 1024:
        raise weights.unsupported_config(path, "cross_attention_dim = 1024 is Stable Diffusion 2's, which is not supported")
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


def is_int_or_nested(value, least: int, most: int, nesting: int = 2) -> bool:
    """Whether this is a whole number from `least` to `most`, or a list, perhaps of lists, of such."""
    if isinstance(value, list):
        return nesting > 0 and 0 < len(value) <= 32 and all(is_int_or_nested(v, least, most, nesting - 1) for v in value)
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
