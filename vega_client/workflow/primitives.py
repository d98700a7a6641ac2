"""Primitives: nodes of the frontend alone, whose value goes to the widgets that they are connected to."""

import math

from .graph import Graph, Node, Widget
from .subgraphs import primitive_targets
from .text_replacements import expand_placeholders


def apply_primitive(graph: Graph, node: Node, root: Graph) -> None:
    """A primitive's value goes to the widgets that it is connected to, as they take it."""
    for _, entry in primitive_targets(graph, node):
        if entry.widget and 0 in node.values:
            replaces = node.properties.get("Run widget replace on values")
            value = expand_placeholders(node.values[0], root) if replaces else node.values[0]
            number = isinstance(value, int | float) and entry.widget.type in ("INT", "FLOAT")
            entry.widget.value = snap_to_step(value, entry.widget) if number else value


def snap_to_step(value: float, widget: Widget) -> float:
    """Within the limits; in whole steps from the lowest, or with the digits that a step has."""
    low, step = widget.options.get("min", 0), widget.options.get("step")
    value = min(max(value, low), widget.options.get("max", 2048))
    if widget.type == "INT":
        offset = low % (step or 1)
        return math.floor((value - offset) / (step or 1) + 0.5) * (step or 1) + offset
    digits = max(0, -math.floor(math.log10(step or 0.5)))
    unit = widget.options.get("round") or (digits and 10**-digits)
    return round(math.floor(value / unit + 0.5) * unit, digits) if unit else value
