"""The smaller UNet that a plan makes of a base: its config.json, and which of the base's weights are its own."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel

from vega.weights import check

from . import block_plan
from .base import PIXELS_PER_LATENT, Base, loaded
from .block_plan import Blocks, Level, Plan, listed
from .distillation import capture_features

DOWN, UP = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}, {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
META_SIDE_PIXELS = 512  # of the picture with which outputs are compared; any that all levels can halve
MIDDLE = {True: "UNetMidBlock2DCrossAttn", False: "UNetMidBlock2D"}


class Student(NamedTuple):
    """A smaller UNet: its config.json, the base's name of each of its weights, and which outputs are compared."""

    config: dict
    names: dict[str, str]
    features: dict[str, str]


def of_unet(unet: UNet2DConditionModel) -> Blocks:
    """All blocks of a UNet."""

    def layers(attention) -> list[int]:
        return list(range(len(attention.transformer_blocks)))

    def level(block) -> Level:
        attentions = getattr(block, "attentions", None)
        return {k: layers(attentions[k]) if attentions else [] for k in range(len(block.resnets))}

    down, up = (dict(enumerate(map(level, side))) for side in (unet.down_blocks, unet.up_blocks))
    middle = unet.mid_block
    attentions = getattr(middle, "attentions", None)
    return Blocks(down, None if middle is None else layers(attentions[0]) if attentions else [], up)


def make_student(plan: Plan, base: Base) -> Student:
    """What the plan makes of a base; ValueError where it is none for it, or none that is smaller."""
    check_family(plan, base)
    teacher = on_meta(base.config)
    whole = of_unet(teacher)
    if plan.blocks.shape() == whole.shape():
        raise ValueError(f"{base.path} has no more blocks than {plan.name} keeps: it is that small already.")
    check_kept(plan, base, whole)
    whole_config = {option: value for option, value in teacher.config.items() if not option.startswith("_")}
    made = on_meta(config := whole_config | config_overrides(plan.blocks, whole_config))
    inside, outside = made.state_dict(), teacher.state_dict()
    names = {name: plan.teacher_name(name) for name in inside}
    for name, there in names.items():
        if there not in outside or outside[there].shape != inside[name].shape:
            raise ValueError(
                f"The plan {plan.name} makes {name} of {there}, which {base.path} has not, or of another shape: the blocks "
                "that it keeps don't fit each other."
            )
    features = plan.feature_pairs(len(whole.down))
    for side, unet, modules in (("student", made, features), ("base", teacher, features.values())):
        if unknown := sorted(set(modules) - dict(unet.named_modules()).keys()):
            raise ValueError(f"The plan {plan.name} compares {unknown[0]}, which the {side} has not.")
    return Student(config, names, features)


def load(student: Student, base: Base, dtype: torch.dtype) -> UNet2DConditionModel:
    """The student with the base's weights, frozen."""
    path, tensors = base.unet_weights()
    check(path, tensors, on_meta(base.config).state_dict())
    kept = {name: tensors[there] for name, there in student.names.items()}
    return loaded(path, on_meta(student.config), kept, dtype)


def check_family(plan: Plan, base: Base) -> None:
    family = block_plan.FAMILIES[base.is_xl]
    if plan.family != family:
        others = [name for name in block_plan.names() if block_plan.read(name).family == family]
        raise ValueError(
            f"The plan {plan.name} is for {plan.family}, and {base.path} is of the family of {family}: use "
            f"{' or '.join(others)}, or a plan of your own."
        )


def check_kept(plan: Plan, base: Base, whole: Blocks) -> None:
    """ValueError where the base lacks what the plan keeps, or where it goes down by other levels than up."""
    for side, kept, every in (("down", plan.blocks.down, whole.down), ("up", plan.blocks.up, whole.up)):
        for level, blocks in kept.items():
            for block, layers in blocks.items():
                check_layers(plan, base, f"{side}_blocks.{level}", block, layers, every.get(level, {}).get(block))
    if plan.blocks.mid is not None:
        check_layers(plan, base, "mid_block", 0, plan.blocks.mid, whole.mid)
    up = [len(whole.down) - 1 - level for level in [*plan.blocks.down][::-1]]
    if up != [*plan.blocks.up]:
        raise ValueError(
            f"The plan {plan.name} goes up by the levels {listed(plan.blocks.up)}; it must be {listed(up)}, whose sizes are "
            f"those of {listed(plan.blocks.down)} going down."
        )


def check_layers(plan: Plan, base: Base, place: str, block: int, kept: list[int], base_layers: list[int] | None) -> None:
    """ValueError where the base lacks the block, or some of its layers that the plan keeps."""
    lacking = [f".attentions.{block}.transformer_blocks.{layer}" for layer in kept if layer not in (base_layers or ())]
    if base_layers is None:
        lacking = [f".resnets.{block}"]
    if lacking:
        raise ValueError(
            f"The plan {plan.name} keeps {place}{lacking[0]}, which {base.path} lacks: it is not the whole {plan.family}. "
            "Make a plan for the blocks that it has."
        )


def check_features(plan: Plan, student: Student, base: Base) -> None:
    """ValueError where what is compared has no output, or where two outputs have different shapes."""
    features, shapes = student.features, []
    for side, config, modules in (("student", student.config, features), ("base", base.config, features.values())):
        shapes.append(output_shapes(on_meta(config), modules))
        if silent := sorted(set(modules) - shapes[-1].keys()):
            raise ValueError(
                f"The plan {plan.name} compares {silent[0]}, which gives no output in the {side}: if it is a list, name "
                f"one of its blocks, such as {silent[0]}.0."
            )
    ours, theirs = shapes
    for name, there in features.items():
        if ours[name] != theirs[there]:
            raise ValueError(
                f"The plan {plan.name} compares {name}, which gives {ours[name]} of a picture of {META_SIDE_PIXELS} pixels, "
                f"with the base's {there}, which gives {theirs[there]}: only outputs of one shape can be compared."
            )


def output_shapes(unet: UNet2DConditionModel, names: Iterable[str]) -> dict[str, list[int]]:
    """What each of these modules gives in a pass of a UNet on the meta device; those without an output are left out."""
    config = unet.config
    with torch.device("meta"), torch.no_grad(), capture_features(unet, names) as outputs:
        added = None
        if config.addition_embed_type:
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            added = {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, 6)}
        side = META_SIDE_PIXELS // PIXELS_PER_LATENT
        context = torch.zeros(1, 77, config.cross_attention_dim)
        unet(torch.zeros(1, 4, side, side), torch.zeros(1), context, added_cond_kwargs=added)
    return {name: list(output.shape) for name, output in outputs.items() if isinstance(output, torch.Tensor)}


def config_overrides(blocks: Blocks, config: dict) -> dict:
    """What differs in the student's config.json from the base's."""
    kept, down, up = [*blocks.down], [*blocks.down.values()], [*blocks.up.values()]
    layers = [collapse_uniform([len(layers) for layers in level.values()]) or 1 for level in down]
    if blocks.mid and not has_attention(down[-1]):
        layers[-1] = len(blocks.mid)  # where a UNet has that of its middle block
    reverse = [collapse_uniform([len(layers) for layers in level.values()]) or layers[-1 - k] for k, level in enumerate(up)]
    is_mirrored = reverse == layers[::-1] and not any(isinstance(layer, list) for layer in layers)
    found = {
        "layers_per_block": collapse_uniform([len(level) for level in down]),
        "down_block_types": [DOWN[has_attention(level)] for level in down],
        "mid_block_type": None if blocks.mid is None else MIDDLE[bool(blocks.mid)],
        "up_block_types": [UP[has_attention(level)] for level in up],
        "transformer_layers_per_block": layers,
        "reverse_transformer_layers_per_block": None if is_mirrored else reverse,
    }
    for option in ("block_out_channels", "attention_head_dim", "num_attention_heads"):
        if isinstance(config.get(option), list | tuple):
            found[option] = [config[option][level] for level in kept]
    return found


def has_attention(level: Level) -> bool:
    return any(level.values())


def collapse_uniform(values: list[int]) -> int | list[int]:
    """One number for all where it is the same."""
    return values[0] if len(set(values)) == 1 else values


def on_meta(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)
