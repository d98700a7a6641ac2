"""The groups inside a saved subgraph: a frame around some nodes, and the name that is written on it.

The frontend paints a group's bar in the colour of its title, 44 % of it: even white reaches only 4 to 1 there. So the
frame has no title, and its name is a group of its own, which has no width and therefore no bar. The frontend draws titles
of groups at every zoom, those of nodes only when they are large. The name lies inside the frame, and moves with it.
"""

from .graph import TITLE_HEIGHT, Node

MARGIN_PIXELS = 20  # of a frame around its nodes
CORNER_PIXELS = 10  # side of the triangle that the frontend draws into each group's lower right corner
FRAME_COLOR, NAME_COLOR = "#3f789e", "#fff"  # the frontend's own for groups (pale_blue), and what stands out on its bar


def saved_groups(groups: list[tuple[str, tuple[Node, ...]]], edges: dict[int, int]) -> list[dict]:
    """All frames, then all names: later ones are drawn on top. edges: the left edge of each column."""
    frames = [frame_bounds(nodes, edges) for _, nodes in groups]
    # A name's triangle fills the frame's upper left one.
    names = [[left + CORNER_PIXELS, top, 0, CORNER_PIXELS] for left, top, *_ in frames]
    drawn = [("", bounding, FRAME_COLOR) for bounding in frames]
    drawn += [(title, bounding, NAME_COLOR) for (title, _), bounding in zip(groups, names, strict=True)]
    return [
        {"id": id, "title": title, "bounding": bounding, "color": color, "font_size": 24, "flags": {}}
        for id, (title, bounding, color) in enumerate(drawn, 1)
    ]


def frame_bounds(nodes: tuple[Node, ...], edges: dict[int, int]) -> list[int]:
    """Left, top, width and height."""
    left = min(edges[node.column] for node in nodes) - MARGIN_PIXELS
    top = min(node.y for node in nodes) - TITLE_HEIGHT - MARGIN_PIXELS - TITLE_HEIGHT
    right = max(edges[node.column] + node.width for node in nodes) + MARGIN_PIXELS
    bottom = max(node.y + node.height for node in nodes) + MARGIN_PIXELS
    return [left, top, right - left, bottom - top]
