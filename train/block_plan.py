"""Which blocks of a UNet a smaller one keeps: the plan, as data.

A plan is a JSON object; train/plans has those of published models:

family       "SD 1.5" or "SDXL"
down_blocks  number of a level of the base -> number of a block in it -> the transformer layers that this block keeps
up_blocks    the same; each level has one block more than that of its size going down
mid_block    the layers that the middle block keeps: [] leaves its first residual block alone, null leaves nothing of it
features     module of the student -> that of the base to which distillation compares it; level by level if left out

BK-SDM (Kim et al. 2023, arXiv 2305.15798) and segmind/distill-sd say what small-sd and tiny-sd keep. Of SSD-1B and Vega
(Gupta et al. 2024, arXiv 2401.02677) the number of layers in each block is public, and not which of SDXL's they were: here
they are spread evenly from the first to the last.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

PLANS = Path(__file__).parent / "plans"
FAMILIES = {False: "SD 1.5", True: "SDXL"}  # whether it is of SDXL's
KEYS = ("family", "down_blocks", "mid_block", "up_blocks", "features")
BLOCK_NAME_PATTERN = re.compile(r"(down|up)_blocks\.(\d+)(?:\.(resnets|attentions)\.(\d+)(?:\.transformer_blocks\.(\d+))?)?")
MIDDLE_LAYER_PATTERN = re.compile(r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)")

Level = dict[int, list[int]]  # block -> its transformer layers


class Blocks(NamedTuple):
    """The numbers of levels, of blocks and of transformer layers of a UNet, or of those of it that are kept."""

    down: dict[int, Level]
    mid: list[int] | None
    up: dict[int, Level]

    def shape(self) -> tuple:
        """How many there are, wherever they are from."""
        sides = ([[len(layers) for layers in level.values()] for level in side.values()] for side in (self.down, self.up))
        return (*sides, None if self.mid is None else len(self.mid))


class Plan(NamedTuple):
    name: str
    family: str
    blocks: Blocks
    features: dict[str, str] | None

    def teacher_name(self, name: str) -> str:
        """What a module or weight of the student is called in the base."""
        if match := MIDDLE_LAYER_PATTERN.match(name):
            return f"mid_block.attentions.0.transformer_blocks.{self.blocks.mid[int(match[1])]}{name[match.end() :]}"
        match = BLOCK_NAME_PATTERN.match(name)
        if not match:
            return name
        side, number, kind, block, layer = match.groups()
        level, blocks = list((self.blocks.down if side == "down" else self.blocks.up).items())[int(number)]
        found = f"{side}_blocks.{level}"
        if kind:
            block, layers = list(blocks.items())[int(block)]
            found += f".{kind}.{block}"
            if layer:
                found += f".transformer_blocks.{layers[int(layer)]}"
        return found + name[match.end() :]

    def feature_pairs(self, levels: int) -> dict[str, str]:
        """The features; without any in the plan those of distill-sd: each level and the middle block.

        Where the student's last level is not the base's last of `levels`, the base goes on to halve its output there.
        """
        if self.features is not None:
            return self.features
        down = [f"down_blocks.{k}" for k in range(len(self.blocks.down))]
        if [*self.blocks.down][-1] < levels - 1:
            del down[-1]
        middle = [] if self.blocks.mid is None else ["mid_block"]
        up = [f"up_blocks.{k}" for k in range(len(self.blocks.up))]
        return {name: self.teacher_name(name) for name in (*down, *middle, *up)}


def names() -> list[str]:
    return sorted(file.stem for file in PLANS.glob("*.json"))


def read(name_or_path: str) -> Plan:
    """The plan of this name, or in this file; ValueError where it is none."""
    path = PLANS / f"{name_or_path}.json" if name_or_path in names() else Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"--to {name_or_path}: there is no such plan. Give {', '.join(names())}, or a JSON file with a plan."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        unknown = content.keys() - set(KEYS)
        plan = None if unknown else plan_of(path.stem, content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"--to {name_or_path}: this is no plan ({error!r}). Write it as {PLANS / 'vega.json'} is written."
        ) from error
    if unknown:
        raise ValueError(f"--to {name_or_path}: {min(unknown)!r} is no key of a plan, which has {listed(KEYS)}.")
    if plan.family not in FAMILIES.values():
        raise ValueError(f"--to {name_or_path}: the family {plan.family!r} is none; write {' or '.join(FAMILIES.values())}.")
    if problem := validation_error(plan.blocks):
        raise ValueError(f"--to {name_or_path}: {problem}.")
    return plan


def plan_of(name: str, content: dict) -> Plan:
    mid, features = content["mid_block"], content.get("features")
    blocks = Blocks(
        levels_of(content["down_blocks"]), None if mid is None else numbers(mid), levels_of(content["up_blocks"])
    )
    return Plan(name, content["family"], blocks, None if features is None else module_names(features))


def levels_of(side: dict) -> dict[int, Level]:
    return {int(level): {int(block): numbers(kept) for block, kept in blocks.items()} for level, blocks in side.items()}


def numbers(values: list) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{values} is no list of numbers")
    return values


def module_names(features: dict) -> dict[str, str]:
    if not isinstance(features, dict) or not all(isinstance(name, str) for name in features.values()):
        raise ValueError(f"features, {features}, are no names of modules to names of modules")
    return features


def validation_error(blocks: Blocks) -> str | None:
    """What no UNet can be, if the blocks are none of one."""
    down, mid, up = [*blocks.down.values()], blocks.mid, [*blocks.up.values()]
    if not down or len(down) != len(up):
        return f"{len(down)} levels go down and {len(up)} up; give as many, and at least one"
    for level, (going_down, going_up) in enumerate(zip(down, up[::-1], strict=True)):
        if not going_down or len(going_up) != len(going_down) + 1:
            return (
                f"level {level} going down keeps {len(going_down)} blocks and that of its size going up {len(going_up)}; "
                "it must be one more going up, and at least one going down"
            )
    for level in (*down, *up):
        if len({bool(layers) for layers in level.values()}) > 1:
            return "a level keeps attention in some of its blocks and not in others; keep it in all of them or in none"
    for side, levels in (("down", blocks.down), ("up", blocks.up), ("mid", {0: {0: blocks.mid or []}})):
        for level, kept in levels.items():
            for block, layers in kept.items():
                if len(set(layers)) < len(layers):
                    place = "mid_block" if side == "mid" else f"{side}_blocks.{level}.attentions.{block}"
                    return f"{place} keeps a layer twice, {layers}; each may stay once"
    first = len(next(iter(down[-1].values())))
    if mid and first and len(mid) != first:
        return f"mid_block keeps {len(mid)} layers and the last level's blocks {first}; a UNet has as many in both"
    return None


def listed(values) -> str:
    return ", ".join(map(str, values))
