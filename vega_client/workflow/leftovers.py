"""Saved values that GET /object_info has no place for: those of widgets that a pack's own code draws in the browser.

That code alone knows which of them it sends, and under which names. Without them another picture would be drawn.
"""

import json

from .definitions import CONTROLS, specs
from .parts import Node

# Core's nodes take nothing that /object_info doesn't describe, and the frontend drops what older versions saved for them.
CORE = ("nodes", "comfy_extras", "comfy_api_nodes")
# The nodes that save the text they have shown.
SHOWING = {"Display Any (rgthree)", "Display Int (rgthree)", "ShowText|pysssss", "easy showAnything"}


def left_over(node: Node, info: dict) -> list[str]:
    """The values, in a few letters each, that would be lost."""
    if str(info.get("python_module")).partition(".")[0] in CORE or node.kind in SHOWING:
        return []
    unused = {entry.name for entry in node.inputs if entry.link is not None}
    unused |= {name for name, _, options in specs(info) if options.get("forceInput")}  # which were widgets once
    return [shortened(value) for name, value in node.left.items() if name not in unused and not is_idle(value)]


def is_idle(value: object) -> bool:
    """Whether nothing is drawn with a value: an empty one, a button's, a control's, or where a preview stands."""
    if isinstance(value, dict) and {"hidden", "paused"} <= value.keys():
        return True
    return value in (None, "", [], {}, "image", *CONTROLS)


def shortened(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
