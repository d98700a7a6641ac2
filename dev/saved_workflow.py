"""The file that ComfyUI's browser saves, schema 0.4, of a graph."""

import uuid
from collections import defaultdict
from typing import NamedTuple

import tomllib

from .graph import AUTOGROW, SLOT_HEIGHT, Graph, Model, Node, Output, Subgraph
from .host import ROOT, VERSION
from .saved_groups import saved_groups

COLUMN_GAP = 90  # between two columns inside a subgraph; links turn there
TOP_COLUMN_GAP = 50  # between two columns at the top
NOTE_TYPE = "MarkdownNote"  # the frontend's own, never sent to the server
PACK = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INPUT_NODE, OUTPUT_NODE = -10, -20  # the frontend's ids of a subgraph's two edges
# Title bar, as the browser's colour menu has it (LGraphCanvas.node_colors), and a body dark enough for the names in it.
PROMPT_COLOR = {"color": "#232", "bgcolor": "#283828"}
RESULT_COLOR = {"color": "#323", "bgcolor": "#382838"}
MODEL_COLOR = {"color": "#223", "bgcolor": "#282838"}
NOTE_COLOR = {"color": "#222", "bgcolor": "#000"}
COLORS = {
    "CLIPTextEncode": PROMPT_COLOR,
    **dict.fromkeys(("SaveImage", "VegaSendImage", "ImageCompare", "PreviewImage"), RESULT_COLOR),
    **dict.fromkeys(("VegaLoader", "VegaLCMLora", "VegaLoraLoader", "VegaAccelerate", "ControlNetLoader"), MODEL_COLOR),
    **dict.fromkeys(("VegaTrainLora", "VegaTrainLCMLora"), MODEL_COLOR),
}
# Of the nodes that train, what the App view shows.
TRAINED_FROM = {
    "VegaTrainLora": ("model_name", "folder", "name", "steps"),
    "VegaTrainLCMLora": ("model_name", "prompts", "folder", "name", "steps"),
}


class Slot(NamedTuple):
    """A socket of a subgraph's node."""

    name: str
    type: str
    link: int | None  # at the top; None for a widget
    inner: list[int]
    is_widget: bool = False


class WorkflowExporter:
    """Of one graph; export() gives the file."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.order = graph.order()
        self.links: dict[Subgraph | None, list] = defaultdict(list)  # level -> [id, source, slot, target, slot, type]
        self.link_ids: dict[tuple[int, str], int] = {}  # (node, input) -> the link that ends there, in its own level
        self.links_from: dict[tuple[int, int], list[int]] = defaultdict(list)  # (node, slot) -> links in its own level
        self.slots_in: dict[Subgraph, list[Slot]] = defaultdict(list)
        self.slots_out: dict[Subgraph, list[Slot]] = defaultdict(list)
        self.reroutes: dict[Subgraph | None, dict] = defaultdict(dict)
        self.parents: dict[int, int] = {}  # link -> the last point that it is led through
        self.edges = {level: column_edges(graph, level) for level in (None, *graph.subgraphs)}
        self._count = 0
        self.add_links()

    def add_link(self, level: Subgraph | None, source: int, slot: int, target: int, target_slot: int, kind: str) -> int:
        self._count += 1
        self.links[level].append([self._count, source, slot, target, target_slot, kind])
        self.links_from[source, slot].append(self._count)
        return self._count

    def add_links(self) -> None:
        for subgraph in self.graph.subgraphs:
            for name, inside in subgraph.face.items():
                slot, numbers = len(self.slots_in[subgraph]), []
                for node, widget in inside:
                    kind = node.spec(widget).kind
                    numbers.append(self.add_link(subgraph, INPUT_NODE, slot, node.id, slot_number(node, widget), kind))
                    self.link_ids[node.id, widget] = numbers[-1]
                self.slots_in[subgraph].append(Slot(name, kind, None, numbers, True))
        entered: dict[tuple, int] = {}
        left: dict[tuple, int] = {}
        for target in self.graph.nodes.values():
            there = self.graph.inside.get(target.id)
            for name, output in target.links():
                here = self.graph.inside.get(output.node.id)
                at = slot_number(target, name)
                if here is there:
                    number = self.add_link(here, output.node.id, output.slot, target.id, at, output.type)
                    self.route_link(here, number, output)
                elif here is None:
                    slot = entered.get((there, output.node.id, output.slot))
                    if slot is None:
                        slot = entered[there, output.node.id, output.slot] = len(self.slots_in[there])
                        outer = self.add_link(None, output.node.id, output.slot, there.id, slot, output.type)
                        self.slots_in[there].append(Slot(output.name.lower(), output.type, outer, []))
                    number = self.add_link(there, INPUT_NODE, slot, target.id, at, output.type)
                    self.slots_in[there][slot].inner.append(number)
                    self.route_link(there, number, output)
                elif there is None:
                    slot = left.get((here, output.node.id, output.slot))
                    if slot is None:
                        slot = left[here, output.node.id, output.slot] = len(self.slots_out[here])
                        inner = self.add_link(here, output.node.id, output.slot, OUTPUT_NODE, slot, output.type)
                        name_outside = output.name if slot == 0 else f"{output.name}_{slot}"
                        self.slots_out[here].append(Slot(name_outside, output.type, None, [inner]))
                    number = self.add_link(None, here.id, slot, target.id, at, output.type)
                else:
                    raise ValueError(f"{output.node.kind} and {target.kind} are in two subgraphs.")
                self.link_ids[target.id, name] = number

    def route_link(self, level: Subgraph | None, number: int, output: Output) -> None:
        """Through the points of its route; links of one output share those that they have in common."""
        parent, path = None, (output.node.id, output.slot)
        for column, y in output.route:
            path = (*path, column, y)
            known = self.reroutes[level]
            if path not in known:
                id = sum(map(len, self.reroutes.values())) + 1
                x = self.edges[level][column] - 2 * COLUMN_GAP // 3
                known[path] = {"id": id, **({"parentId": parent} if parent else {}), "pos": [x, y], "linkIds": []}
            known[path]["linkIds"].append(number)
            parent = known[path]["id"]
        if parent:
            self.parents[number] = parent

    def export(self) -> dict:
        graph = self.graph
        top = [self.node(node, None) for node in graph.nodes.values() if node.id not in graph.inside]
        top += [self.instance(subgraph) for subgraph in graph.subgraphs]
        top += [self.note(k, *note) for k, note in enumerate(graph.notes)]
        ids = [*graph.nodes, *(subgraph.id for subgraph in graph.subgraphs), *(note[0] for note in graph.notes)]
        return {
            "id": stable_uuid(graph.name),
            "revision": 0,
            "last_node_id": max(ids),
            "last_link_id": self._count,
            "nodes": sorted(top, key=lambda node: node["pos"]),  # the order in which Tab reaches them with Nodes 2.0
            "links": self.links[None],
            "groups": self.groups(None),
            "definitions": {"subgraphs": [self.definition(one) for one in graph.subgraphs]},
            "config": {},
            "extra": {"workflowRendererVersion": "LG", "linearData": self.linear_data()},
            "version": 0.4,
        }

    def linear_data(self) -> dict:
        """What the browser's App view shows: the faces of the subgraphs and own pictures, and the results."""
        loaded = [node for node in self.graph.nodes.values() if node.kind == "LoadImage"]
        inputs = [[str(node.id), "image"] for node in loaded]
        inputs += [[str(node.id), name] for node in self.graph.nodes.values() for name in TRAINED_FROM.get(node.kind, ())]
        inputs += [[str(subgraph.id), name] for subgraph in self.graph.subgraphs for name in subgraph.face]
        results = [n for n in self.graph.nodes.values() if n.kind in ("SaveImage", "VegaSendImage")]
        return {"inputs": inputs, "outputs": [str(node.id) for node in results]}

    def node(self, node: Node, level: Subgraph | None) -> dict:
        outputs = []
        for slot, name in enumerate(node.definition["output_name"]):
            leaving = self.links_from[node.id, slot]
            outputs.append({"name": name, "type": Output(node, slot).type, "links": list(leaving) or None})
        x, order = self.edges[level][node.column], self.order[node.id]
        return {
            **node_entry(node.id, node.kind, x, node.y, node.width, node.height, order),
            "inputs": [{**entry, "link": self.link_ids.get((node.id, entry["name"]))} for entry in input_entries(node)],
            "outputs": outputs,
            **({"title": node.title} if node.title else {}),
            "properties": node_properties(node),
            "widgets_values": node.values(),
            **COLORS.get(node.kind, {}),
        }

    def instance(self, subgraph: Subgraph) -> dict:
        slots, kind = self.slots_in[subgraph], stable_uuid(self.graph.name, subgraph.name)
        x, order = self.edges[None][subgraph.column], len(self.order) + subgraph.id
        return {
            **node_entry(subgraph.id, kind, x, subgraph.y, subgraph.width, subgraph.height, order),
            "inputs": [
                {"name": s.name, "type": s.type, **({"widget": {"name": s.name}} if s.is_widget else {}), "link": s.link}
                for s in sorted(slots, key=lambda s: s.is_widget)
            ],
            "outputs": [
                {"name": s.name, "type": s.type, "links": list(self.links_from[subgraph.id, k]) or None}
                for k, s in enumerate(self.slots_out[subgraph])
            ],
            "properties": {"cnr_id": PACK["name"], "ver": PACK["version"]},
            "widgets_values": [],
            **PROMPT_COLOR,
        }

    def definition(self, subgraph: Subgraph) -> dict:
        nodes = [n for n in self.graph.nodes.values() if self.graph.inside.get(n.id) is subgraph]
        edges = self.edges[subgraph]
        top = min(node.y for node in nodes)
        lower = top + subgraph.input_node_offset
        right = max(edges[node.column] + node.width for node in nodes)
        slots = {"inputs": self.slots_in[subgraph], "outputs": self.slots_out[subgraph]}
        groups, output_height = self.groups(subgraph), SLOT_HEIGHT * (len(slots["outputs"]) + 2)
        links = []
        for id, source, slot, target, target_slot, kind in self.links[subgraph]:
            link = {"id": id, "origin_id": source, "origin_slot": slot, "target_id": target, "target_slot": target_slot}
            parent = {"parentId": self.parents[id]} if id in self.parents else {}
            links.append({**link, "type": kind, **parent})
        return {
            "id": stable_uuid(self.graph.name, subgraph.name),
            "version": 1,
            "state": {"lastGroupId": len(groups), "lastNodeId": max(n.id for n in nodes)}
            | {"lastLinkId": self._count, "lastRerouteId": sum(map(len, self.reroutes.values()))},
            "revision": 0,
            "config": {},
            "name": subgraph.name,
            "inputNode": {"id": INPUT_NODE, "bounding": [-240, lower, 150, SLOT_HEIGHT * (len(slots["inputs"]) + 2)]},
            "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 120, top, 130, output_height]},
            **{
                name: [
                    {"id": stable_uuid(self.graph.name, subgraph.name, name, s.name), "name": s.name, "type": s.type}
                    | {"linkIds": s.inner}
                    for s in found
                ]
                for name, found in slots.items()
            },
            "widgets": [],
            "nodes": [self.node(node, subgraph) for node in nodes],
            "groups": groups,
            "links": links,
            "reroutes": [*self.reroutes[subgraph].values()],
            "extra": {"workflowRendererVersion": "LG"},
        }

    def groups(self, level: Subgraph | None) -> list[dict]:
        here = [g for g in self.graph.groups if self.graph.inside.get(g[1][0].id) is level]
        return saved_groups(here, self.edges[level])

    def note(self, k: int, id: int, column: int, y: int, width: int, height: int, text: str) -> dict:
        return {
            **node_entry(id, NOTE_TYPE, self.edges[None][column], y, width, height, len(self.order) + k),
            "inputs": [],
            "outputs": [],
            "title": "Read me",
            "properties": {},
            "widgets_values": [text],
            **NOTE_COLOR,
        }


def node_entry(id: int, kind: str, x: int, y: int, width: int, height: int, order: int) -> dict:
    """What every node's entry begins with."""
    return {"id": id, "type": kind, "pos": [x, y], "size": [width, height], "flags": {}, "order": order, "mode": 0}


def stable_uuid(*names: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(names)))


def column_edges(graph: Graph, level: Subgraph | None) -> dict[int, int]:
    """The left edge of each column, as wide as its widest node; the first is column 1."""
    boxes = [(n.column, n.width) for n in graph.nodes.values() if graph.inside.get(n.id) is level]
    if level is None:
        boxes += [(s.column, s.width) for s in graph.subgraphs]
        boxes += [(column, width) for _, column, _, width, *_ in graph.notes]
    widths: dict[int, int] = {}
    for column, width in boxes:
        widths[column] = max(widths.get(column, 0), width)
    edges = {1: 0}
    for column in range(1, max(widths)):
        edges[column + 1] = edges[column] + widths.get(column, 0) + (COLUMN_GAP if level else TOP_COLUMN_GAP)
    return edges


def input_entries(node: Node) -> list[dict]:
    """Sockets first, then the widgets, as the frontend orders them."""
    entries = []
    for spec, name, _ in node.sockets():
        growing = spec.kind == AUTOGROW
        free = growing and name[-1] != "0" or spec.is_optional
        entries.append(
            {
                **({"label": name.partition(".")[2]} if growing else {}),
                "name": name,
                **({"shape": 7} if free else {}),  # drawn as a ring: may be left open
                "type": Output(node, 0).type if growing else spec.kind,
            }
        )
    for spec in node.specs:
        if spec.is_widget and not spec.options.get("socketless"):
            optional = {"shape": 7} if spec.is_optional else {}
            entries.append({"name": spec.name, **optional, "type": spec.kind, "widget": {"name": spec.name}})
    return entries


def slot_number(node: Node, name: str) -> int:
    return [entry["name"] for entry in input_entries(node)].index(name)


def node_properties(node: Node) -> dict:
    ours = node.kind.startswith("Vega")
    found = {"cnr_id": PACK["name"] if ours else "comfy-core", "ver": PACK["version"] if ours else VERSION}
    found["Node name for S&R"] = node.kind
    found |= node.properties
    models = [given for given in node.inputs.values() if isinstance(given, Model)]
    if models:
        found["models"] = [{"name": m.name, "url": m.url, "directory": m.directory} for m in models]
    return found
