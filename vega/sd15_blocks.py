"""small-sd and tiny-sd: Stable Diffusion 1.5 with blocks left out, and which of its blocks each of theirs was.

segmind/distill-sd (distill_training.py, prepare_unet) keeps the first residual block of each level going down, and the
first and the last of each level going up; tiny-sd has the outer three of the four levels, and no middle block. What was
made for SD 1.5 and addresses blocks by number reaches the same blocks here by way of this map.
"""

import re

import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import comfy.weight_adapter

LEVELS = 4
CHANNEL_MULT = [1, 2, 4, 4]
CHANNEL_MULTS = (CHANNEL_MULT, CHANNEL_MULT[:-1])
BLOCKS_PER_LEVEL = 3  # two residual blocks and a downsampler going down, three residual blocks going up
NO_MIDDLE_BLOCK = -2  # the host's transformer_depth_middle
# Begins the keys of the adapters that this pack puts on; ones from elsewhere keep their files' own.
PATCH_PREFIX = "vega."


def count_kept_levels(unet_config: dict) -> int:
    """How many of SD 1.5's levels a UNet made from it by leaving blocks out has; 0 for any other UNet."""
    levels = len(unet_config.get("channel_mult", ()))
    left_out = (
        levels in (LEVELS - 1, LEVELS)
        and unet_config.get("adm_in_channels") is None
        and list(unet_config["channel_mult"]) == CHANNEL_MULT[:levels]
        and unet_config["num_res_blocks"] == [1] * levels
    )
    return levels if left_out else 0


def sd15_config(unet_config: dict) -> dict:
    """The host's UNet config of the SD 1.5 that a UNet was made from."""
    return unet_config | {
        "channel_mult": CHANNEL_MULT,
        "num_res_blocks": [2] * LEVELS,
        "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1,
    }


def reduced_config(unet_config: dict, levels: int) -> dict:
    """The host's UNet config of small-sd (four levels) or tiny-sd (three)."""
    return unet_config | {
        "channel_mult": CHANNEL_MULT[:levels],
        "num_res_blocks": [1] * levels,
        "transformer_depth": [1, 1, 1, 0][:levels],
        "transformer_depth_output": [1] * 6 + [0, 0] * (levels - 3),  # the host takes them from the end
        "transformer_depth_middle": 1 if levels == LEVELS else NO_MIDDLE_BLOCK,
    }


def to_sd15_module(module: str, levels: int) -> str:
    """The module of SD 1.5 that one of a UNet of `levels` levels was; both are diffusers' names, with underscores."""
    module = re.sub(r"^(up_blocks_\d+_(?:resnets|attentions))_1_", r"\1_2_", module)
    return re.sub(r"^up_blocks_(\d+)", lambda match: f"up_blocks_{int(match[1]) + LEVELS - levels}", module)


def kept_block_numbers(unet_config: dict) -> dict[str, list[int]]:
    """The host's numbers of the blocks of SD 1.5 that each "input", "middle" and "output" block was, in order."""
    levels = count_kept_levels(unet_config)
    kept = [0]  # conv_in
    for level in range(levels):
        first = 1 + BLOCKS_PER_LEVEL * level
        kept += [first, first + 2] if level < levels - 1 else [first]  # the residual block, the downsampler
    first_out = BLOCKS_PER_LEVEL * (LEVELS - levels)
    ups = [first_out + BLOCKS_PER_LEVEL * level + number for level in range(levels) for number in (0, 2)]
    middle = [] if unet_config["transformer_depth_middle"] == NO_MIDDLE_BLOCK else [0]
    return {"input": kept, "middle": middle, "output": ups}


class PrunedSD15Model(comfy.model_base.BaseModel):
    """The host's model of such a UNet; what steers SD 1.5's blocks by their numbers steers those that are left."""

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        if self.current_patcher is not None:  # under the host's own samplers, too
            check_patches(self.current_patcher)
            check_hooks(self.current_patcher.current_hooks)
        kept = kept_block_numbers(self.model_config.unet_config)
        if control is not None:
            control = map_control(control, kept)
            if not kept["middle"]:
                transformer_options = separate_last_skip(transformer_options, last=len(kept["input"]) - 1)
        if replaced := transformer_options.get("patches_replace"):
            patches = {kind: map_attention_patches(of_kind, kept) for kind, of_kind in replaced.items()}
            transformer_options = {**transformer_options, "patches_replace": patches}
        return super().apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def map_control(control: dict[str, list], kept: dict[str, list[int]]) -> dict[str, list]:
    """The residuals of a ControlNet or T2I-Adapter for SD 1.5, for the blocks that are left; others' are as they are.

    control: lists that the host's UNet takes from the end. "output" has one residual for each input block's skip
    connection, in order; "middle" one; "input" those that a T2I-Adapter adds to what an input block gives, backwards.
    ValueError where there are as many as neither SD 1.5 nor this UNet has blocks.
    """
    every, own = BLOCKS_PER_LEVEL * LEVELS, len(kept["input"])
    outputs, inputs = control.get("output") or [], control.get("input") or []
    if wrong := {len(outputs), len(inputs)} - {0, own, every}:
        raise ValueError(
            f"This ControlNet or T2I-Adapter steers {wrong.pop()} blocks; this model has {own} of the {every} of Stable "
            "Diffusion 1.5: use one for SD 1.5."
        )
    mapped = dict(control)
    if len(outputs) == every:
        mapped["output"] = [outputs[number] for number in kept["input"]]
    if len(inputs) == every:
        forwards = inputs[::-1]
        mapped["input"] = [sum_residuals(forwards, number) for number in kept["input"]][::-1]
    if not kept["middle"]:
        mapped["middle"] = []
    return mapped


def separate_last_skip(transformer_options: dict, last: int) -> dict:
    """The options with a patch that parts the last input block's skip connection from what goes on.

    Without a middle block both are one tensor in the host's UNet, which adds a ControlNet's residual to it in place.
    """

    def copied(h, options):
        return h.clone() if options["block"] == ("input", last) else h

    patches = transformer_options.get("patches", {})
    after_skip = [*patches.get("input_block_patch_after_skip", ()), copied]
    return {**transformer_options, "patches": {**patches, "input_block_patch_after_skip": after_skip}}


def sum_residuals(residuals: list, number: int):
    """What reaches an input block of SD 1.5, with what reached the residual block after it, which was left out."""
    first, second = residuals[number], None
    if number % BLOCKS_PER_LEVEL == 1:
        second = residuals[number + 1]
    if first is None or second is None:
        return second if first is None else first
    return first + second


def map_attention_patches(patches: dict[tuple, object], kept: dict[str, list[int]]) -> dict[tuple, object]:
    """Attention replacements by SD 1.5's (side, number) or (side, number, layer), as IPAdapters make them, under own ones.

    Those for blocks that were left out, or that SD 1.5 has not either, do nothing; ValueError where none is left.
    """
    mapped = {
        (side, kept[side].index(number), *rest): patch
        for (side, number, *rest), patch in patches.items()
        if number in kept.get(side, ())
    }
    if patches and not mapped:
        raise ValueError(
            "A node replaces attention only in blocks of Stable Diffusion 1.5 that this model leaves out. Bypass it, or "
            "draw with Stable Diffusion 1.5 itself."
        )
    return mapped


def check_patches(model: comfy.model_patcher.ModelPatcher) -> None:
    """ValueError for a LoRA that another node put on such a UNet, where its numbers mean other blocks, or a mixed merge."""
    patches = [(key, patch) for key, of_weight in model.patches.items() for _, patch, *_ in of_weight]
    merged = [(key, patch[0][0]) for key, patch in patches if isinstance(patch, list)]
    # One may be the first layer of an inpaint UNet, which people merge so.
    if sum(weight.shape != comfy.utils.get_attr(model.model, key).shape for key, weight in merged) > 1:
        raise ValueError(
            "This model was merged with one of other blocks, which are taken for its own: merge it with models of its own "
            "kind alone."
        )
    if not count_kept_levels(model.model.model_config.unet_config):
        return
    if any(is_foreign_patch(patch) for _, patch in patches) or "bypass_lora" in getattr(model, "injections", {}):
        raise ValueError(
            "This model is Stable Diffusion 1.5 with blocks left out, and a LoRA was put on it by a node that doesn't know "
            "which: part of it is in the wrong blocks. Use `Load LoRA (Vega)` in the place of that node, before this one."
        )


def is_foreign_patch(patch) -> bool:
    """Whether it comes from a LoRA file, and not through this pack; in a merge, the other model's patches count as well."""
    if isinstance(patch, list):
        return any(is_foreign_patch(other) for _, other, *_ in patch[1:])
    if isinstance(patch, comfy.weight_adapter.WeightAdapterBase):
        return not next(iter(patch.loaded_keys)).startswith(PATCH_PREFIX)
    return isinstance(patch, tuple) and bool(patch) and patch[0] in ("diff", "set")


def check_hooks(hooks: comfy.hooks.HookGroup | None) -> None:
    """ValueError for a LoRA that comes as a hook."""
    if hooks is not None and any(isinstance(hook, comfy.hooks.WeightHook) and hook.weights for hook in hooks.hooks):
        raise ValueError(
            "This model is Stable Diffusion 1.5 with blocks left out, and a LoRA hook doesn't know which: put the LoRA on "
            "with `Load LoRA (Vega)`."
        )


def check_conditioning(model: comfy.model_patcher.ModelPatcher, positive: list) -> None:
    """ValueError for what steers such a UNet by SD 1.5's numbers, and can't be mapped."""
    if not count_kept_levels(model.model.model_config.unet_config):
        return
    for _, options in positive:
        check_hooks(options.get("hooks"))
        wrong, control = None, options.get("control")
        if control is not None and not isinstance(model.model, PrunedSD15Model):
            wrong = "a ControlNet or T2I-Adapter, on a model from another loader: load the model with Load Vega"
        while control is not None:
            if isinstance(control, comfy.controlnet.ControlLora):
                wrong = "a Control-LoRA: use the whole ControlNet for SD 1.5"
            control = control.previous_controlnet
        if options.get("gligen"):
            wrong = "GLIGEN: draw with Stable Diffusion 1.5 itself, or without it"
        if wrong:
            raise ValueError(
                f"This model is Stable Diffusion 1.5 with blocks left out, and positive has what doesn't know: {wrong}."
            )
    replaced = model.model_options.get("transformer_options", {}).get("patches_replace")
    if replaced and not isinstance(model.model, PrunedSD15Model):
        raise ValueError(
            "This model is Stable Diffusion 1.5 with blocks left out, and a node replaces attention by SD 1.5's numbers: "
            "load the model with Load Vega, which knows them."
        )
