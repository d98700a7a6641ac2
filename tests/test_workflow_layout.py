"""The shipped workflows on the canvas: no node covers another, and what is inside a subgraph is in groups."""

import itertools

from contrast import contrast
from PIL import ImageColor
from workflow_files import NOTES, every, levels, read, subgraphs

TITLE = 30  # height in the browser's canvas, of a node's title and of a group's bar
LETTER, NAME_INDENT = 14, 10  # the most that a letter of a group's name is wide on average, and where it begins
TITLE_TEXT, LABEL_TEXT, NOTE_TEXT, CANVAS = "#999", "#aaa", "#fff", "#222"  # the frontend's dark theme


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top with the title, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def frame(group: dict) -> tuple[float, float, float, float]:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def frames(level: dict) -> list[dict]:
    """The groups around nodes; they have no title."""
    return [group for group in level["groups"] if not group["title"]]


def names(level: dict) -> list[dict]:
    """The groups that are only a title, drawn on a frame's bar; without a width they have no bar of their own."""
    found = [group for group in level["groups"] if group["title"]]
    assert {group["bounding"][2] for group in found} <= {0}
    return found


def on_bar(colour: str) -> str:
    """The colour of a frame's bar: the frontend lays a quarter of the group's colour over the canvas, and once more."""
    share = 1 - 0.75**2
    channels = zip(ImageColor.getrgb(colour), ImageColor.getrgb(CANVAS), strict=True)
    return "#{:02x}{:02x}{:02x}".format(*(round(share * c + (1 - share) * behind) for c, behind in channels))


@every
def test_nothing_overlaps(path):
    for level in levels(read(path)):
        for a, b in itertools.combinations(level["nodes"], 2):
            assert not overlap(box(a), box(b)), f"{a['type']} and {b['type']}"
        for a, b in itertools.combinations(frames(level), 2):
            assert not overlap(frame(a), frame(b)), f"{a['id']} and {b['id']}"


@every
def test_every_node_inside_is_in_one_group(path):
    for level in subgraphs(read(path)):
        for node in level["nodes"]:
            touched = [group for group in frames(level) if overlap(box(node), frame(group))]
            assert len(touched) == 1, node["type"]
            (left, top, right, bottom), inner = frame(touched[0]), box(node)
            assert (left < inner[0], right > inner[2], bottom > inner[3]) == (True, True, True)
            assert top + TITLE < inner[1], "the group's name is covered"


@every
def test_every_frame_bears_one_name(path):
    """On its bar, inside it as a whole, so that it moves with the frame, and drawn after it."""
    for level in subgraphs(read(path)):
        groups = level["groups"]
        assert [bool(group["title"]) for group in groups] == sorted(bool(group["title"]) for group in groups)
        assert [group["id"] for group in groups] == [*range(1, level["state"]["lastGroupId"] + 1)]
        assert len(frames(level)) == len(names(level))
        for outer in frames(level):
            left, top, right, bottom = frame(outer)
            (name,) = [name for name in names(level) if overlap(frame(name), frame(outer))]
            x, y, _, mark_bottom = frame(name)
            assert (left < x, top == y, mark_bottom < top + TITLE) == (True, True, True)
            assert x + NAME_INDENT + LETTER * len(name["title"]) < right, "the name is longer than its frame"


@every
def test_it_is_small_enough_to_be_read_as_it_opens(path):
    """The frontend fits a template's nodes into three quarters of the window, and hides text below 57 % (8 of 14 pixels)."""
    boxes = [box(node) for node in read(path)["nodes"]]
    width, height = (max(b[2 + axis] for b in boxes) - min(b[axis] for b in boxes) for axis in (0, 1))
    assert 0.75 * min(1600 / width, 960 / height) >= 0.7
    assert 0.75 * min(1280 / width, 680 / height) >= 0.58


@every
def test_names_stand_out_from_their_nodes(path):
    """4.5 to 1 for titles of nodes and groups, and for what stands in their bodies (WCAG 2.2, 1.4.3)."""
    workflow = read(path)
    coloured = [
        node for level in levels(workflow) for node in level["nodes"] if node["type"] not in NOTES and "color" in node
    ]
    assert len({node["color"] for node in coloured}) == 3, "prompt, model and result can be told apart"
    for node in coloured:
        assert contrast(TITLE_TEXT, node["color"]) >= 4.5
        assert contrast(LABEL_TEXT, node["bgcolor"]) >= 4.5
    for node in [node for node in workflow["nodes"] if node["type"] in NOTES]:
        assert contrast(TITLE_TEXT, node["color"]) >= 4.5
        assert contrast(NOTE_TEXT, node["bgcolor"]) >= 4.5
    for level in subgraphs(workflow):
        for name, outer in itertools.product(names(level), frames(level)):
            assert contrast(name["color"], on_bar(outer["color"])) >= 4.5
