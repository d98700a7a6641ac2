"""The shipped workflows on the canvas: no node covers another, and no link crosses one."""

import itertools
import math
from pathlib import Path

import pytest
from workflow_files import NOTES, every, read, widgets

ROOT = Path(__file__).resolve().parents[1]
TITLE, SLOT, WIDGET = 30, 20, 24  # heights in the browser's canvas
PIECES = 32  # straight ones, for a curve


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top with the title, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def frame(group: dict) -> tuple[float, float, float, float]:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def output_slot(node: dict, slot: int) -> tuple[float, float]:
    return node["pos"][0] + node["size"][0] + 1 - SLOT / 2, node["pos"][1] + (slot + 0.7) * SLOT


def input_slot(node: dict, slot: int, info: dict) -> tuple[float, float]:
    """Where the canvas draws it: in the row of its widget, if it has one (LGraphNode.ts, _arrangeWidgets)."""
    entry, sockets = node["inputs"][slot], [i for i in node["inputs"] if "widget" not in i]
    x, y = node["pos"][0] + SLOT / 2, node["pos"][1]
    if entry in sockets:
        return x, y + (sockets.index(entry) + 0.7) * SLOT
    y += max(len(sockets), len(node["outputs"])) * SLOT + 6
    for name, _, options in widgets(info[node["type"]]):
        if name == entry["name"]:
            return x, y + SLOT / 2
        y += WIDGET * (2 if options.get("control_after_generate") else 1)
    raise AssertionError(f"{node['type']} has no widget {entry['name']}")


def curve(a, b, leaves: bool, enters: bool):
    """The canvas's spline from a to b: level where it leaves or enters a slot, straight where it is led through a point."""
    reach = math.dist(a, b) / 4
    toward = ((b[0] - a[0]) / 4, (b[1] - a[1]) / 4)
    c = (a[0] + reach, a[1]) if leaves else (a[0] + toward[0], a[1] + toward[1])
    d = (b[0] - reach, b[1]) if enters else (b[0] - toward[0], b[1] - toward[1])
    for t in (k / PIECES for k in range(PIECES + 1)):
        weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
        yield tuple(sum(w * p[axis] for w, p in zip(weights, (a, c, d, b), strict=True)) for axis in (0, 1))


def lines(workflow: dict, info: dict):
    """(source, target, points that it is led through, the line as drawn) of each link."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    points = {point["id"]: point for point in workflow["extra"].get("reroutes", ())}
    ends = {entry["id"]: entry["parentId"] for entry in workflow["extra"].get("linkExtensions", ())}
    for link, source, slot, target, target_slot, _ in workflow["links"]:
        path, point = [input_slot(nodes[target], target_slot, info)], points.get(ends.get(link))
        while point:
            assert link in point["linkIds"]
            path.append(tuple(point["pos"]))
            point = points.get(point.get("parentId"))
        path = [output_slot(nodes[source], slot), *reversed(path)]
        last = len(path) - 2
        pieces = (curve(a, b, k == 0, k == last) for k, (a, b) in enumerate(itertools.pairwise(path)))
        yield (source, slot), target, path, [*itertools.chain.from_iterable(pieces)]


def side(a, b, c) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def cross(a, b, c, d) -> bool:
    """Whether the straight lines a-b and c-d have a point in common, other than by being parallel."""
    return side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0 and any((side(a, b, c), side(a, b, d)))


def crossing(line: list, other: list) -> bool:
    def frames(points):
        ends = [(a, b) for a, b in itertools.pairwise(points) if a != b]
        return [(a, b, (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))) for a, b in ends]

    def near(one, two) -> bool:
        return one[0] <= two[2] and two[0] <= one[2] and one[1] <= two[3] and two[1] <= one[3]

    pairs = itertools.product(frames(line), frames(other))
    return any(near(one, two) and cross(a, b, c, d) for (a, b, one), (c, d, two) in pairs)


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info").json()


@every
def test_links_run_from_left_to_right_and_cross_nothing(path, info):
    workflow = read(path)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    drawn = list(lines(workflow, info))
    for (source, slot), target, path, line in drawn:
        xs = [x for x, _ in path]
        assert xs == sorted(xs), f"{nodes[source]['type']} to {nodes[target]['type']}"
        boxes = [(n["type"], box(n)) for n in nodes.values() if n["id"] not in (source, target)]
        hidden = {kind for kind, b in boxes for x, y in line if b[0] < x < b[2] and b[1] < y < b[3]}
        assert not hidden, f"{nodes[source]['type']}[{slot}] to {nodes[target]['type']} runs behind {hidden}"
    for (source, target, _, line), (other, other_target, _, other_line) in itertools.combinations(drawn, 2):
        named = [nodes[id]["type"] for id in (source[0], target, other[0], other_target)]
        assert source == other or not crossing(line, other_line), "{} to {} crosses {} to {}".format(*named)


@every
def test_nothing_overlaps_and_every_node_is_in_one_group(path):
    workflow = read(path)
    for a, b in itertools.combinations(workflow["nodes"], 2):
        assert not overlap(box(a), box(b)), f"{a['type']} and {b['type']}"
    for a, b in itertools.combinations(workflow["groups"], 2):
        assert not overlap(frame(a), frame(b)), f"{a['title']} and {b['title']}"
    for node in workflow["nodes"]:
        touched = [group for group in workflow["groups"] if overlap(box(node), frame(group))]
        assert len(touched) == (node["type"] not in NOTES), node["type"]
        for group in touched:
            (left, top, right, bottom), inner = frame(group), box(node)
            assert left < inner[0]
            assert right > inner[2]
            assert bottom > inner[3]
            assert top + group["font_size"] < inner[1], "the group's title is covered"
