"""Saved values that GET /object_info has no place for: those of widgets that a pack's own code draws in the browser.

That code alone knows which of them it sends, and under which names. Without them another picture would be drawn.
"""

import json

from .definitions import CONTROL_VALUES, input_specs
from .graph import Node

# Core's nodes take nothing that /object_info doesn't describe, and the frontend drops what older versions saved for them.
CORE_MODULES = ("nodes", "comfy_extras", "comfy_api_nodes")
# The nodes that save the text they have shown.
TEXT_DISPLAY_NODES = {"Display Any (rgthree)", "Display Int (rgthree)", "ShowText|pysssss", "easy showAnything"}


def unmapped_values(node: Node, info: dict) -> list[str]:
    """The values, in a few letters each, that would be lost."""
    if str(info.get("python_module")).partition(".")[0] in CORE_MODULES or node.type in TEXT_DISPLAY_NODES:
        return []
    unused = {entry.name for entry in node.inputs if entry.link is not None}
    unused |= {name for name, _, options in input_specs(info) if options.get("forceInput")}  # which were widgets once
    return [shorten(value) for name, value in node.unused_values.items() if name not in unused and not has_no_effect(value)]


def has_no_effect(value: object) -> bool:
    """Whether nothing is drawn with a value: an empty one, a button's, a control's, or where a preview stands."""
    if isinstance(value, dict) and {"hidden", "paused"} <= value.keys():
        return True
    return value in (None, "", [], {}, "image", *CONTROL_VALUES)


def shorten(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
