"""A graph in a few lines of Python, made the workflow file that ComfyUI's browser saves, and the prompt of its API."""

import heapq
import math
import re
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import tomllib

from vega_client.workflow import definitions
from vega_client.workflow.definitions import AUTOGROW, MATCH, is_widget

from .host import ROOT, VERSION

GAP = 90  # between two columns; links turn there
TITLE, SLOT, WIDGET = 30, 20, 24  # heights that the browser draws
MARGIN = 20  # of a group around its nodes
NOTE_GAP = 110  # above a note: the end of a group, a title, and air
NOTE = "MarkdownNote"  # the frontend's own, never sent to the server
OURS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Width, and the height of nodes that show text or a picture; the others' follows from their slots and widgets.
SIZES = {
    "CLIPTextEncode": (400, 150),
    "PreviewImage": (300, 250),
    "MaskPreview": (300, 250),
    "SaveImage": (420, 420),
    "VegaSendImage": (420, 520),
    "TextOverlay": (280, 280),
    "PrimitiveInt": (220, 0),
    "PrimitiveString": (220, 0),
    "CreateList": (220, 0),
    "VAEDecode": (240, 0),
    "VegaTinyVAEDecode": (240, 0),
    "GetImageSize": (220, 0),
    "JoinImageWithAlpha": (240, 0),
    "SplitImageWithAlpha": (240, 0),
    "ImageToMask": (240, 0),
    "MaskToImage": (240, 0),
    "MaskComposite": (240, 0),
    "GrowMask": (240, 0),
    "ThresholdMask": (240, 0),
    "ImageBlur": (240, 0),
    NOTE: (300, 0),
}


class Model(NamedTuple):
    """A file that the user downloads; a loader that has one selected carries what ComfyUI needs to offer the download."""

    name: str
    url: str
    directory: str
    size: str


class Output(NamedTuple):
    node: "Node"
    slot: int
    route: tuple[tuple[int, int], ...] = ()  # (column, y): points in the gap before a column that the link goes through

    def via(self, *points: tuple[int, int]) -> "Output":
        return self._replace(route=points)


class Spec(NamedTuple):
    name: str
    kind: str
    options: dict
    is_optional: bool
    is_widget: bool


def specs(definition: dict) -> list[Spec]:
    """The inputs of a definition in /object_info, in the order in which their values are saved."""
    optional = definition["input"].get("optional", {})
    given = definitions.specs(definition)
    return [Spec(name, kind, options, name in optional, is_widget(kind, options)) for name, kind, options in given]


class Node:
    def __init__(self, id: int, kind: str, column: int, y: int, title: str | None, definition: dict, inputs: dict):
        self.id, self.kind, self.column, self.y, self.title = id, kind, column, y, title
        self.definition, self.inputs = definition, inputs
        self.specs = specs(definition)
        unknown = inputs.keys() - {spec.name for spec in self.specs}
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        width, height = SIZES.get(kind, (300, 0))
        self.width, self.height = width, height or self.least_height()

    def __getitem__(self, name: str) -> Output:
        return Output(self, self.definition["output_name"].index(name))

    def least_height(self) -> int:
        """What litegraph needs for the slots and the widgets (LGraphNode.computeSize), rounded up."""
        widgets = sum(1 + bool(s.options.get("control_after_generate")) for s in self.specs if s.is_widget)
        growing = any(spec.kind == AUTOGROW for spec in self.specs)  # a second free socket is there while the file is opened
        rows = max(len(list(self.sockets())) + growing, len(self.definition["output"]), 1)
        return math.ceil((SLOT * rows + (WIDGET * widgets + 8 if widgets else 0) + 6) / 10) * 10

    def sockets(self) -> Iterator[tuple[Spec, str, Output | None]]:
        """(spec, name, what is connected) of the inputs that are no widgets; growing ones end with a free socket."""
        for spec in self.specs:
            if spec.kind == AUTOGROW:
                given = self.inputs[spec.name]
                for k, output in enumerate([*given, None]):
                    yield spec, f"{spec.name}.{spec.options['template']['prefix']}{k}", output
            elif not spec.is_widget:
                yield spec, spec.name, self.inputs.get(spec.name)

    def links(self) -> Iterator[tuple[str, Output]]:
        """(name, what is connected) in the order of the definition, as a prompt has it."""
        sockets = {name: output for _, name, output in self.sockets()}
        widgets = {s.name: self.inputs.get(s.name) for s in self.specs if s.is_widget}
        for name, output in {**sockets, **widgets}.items():
            if isinstance(output, Output):
                yield name, output

    def output_type(self, slot: int) -> str:
        kind = self.definition["output"][slot]
        if kind != MATCH:
            return kind
        return next(output.node.output_type(output.slot) for _, _, output in self.sockets() if output)

    def value(self, spec: Spec):
        """What a widget shows; where it is connected that is the default."""
        given = self.inputs.get(spec.name)
        if given is None or isinstance(given, Output):
            return definitions.default_value(spec.kind, spec.options)
        return given.name if isinstance(given, Model) else given

    def values(self) -> list:
        saved = []
        for spec in self.specs:
            if spec.is_widget:
                saved.append(self.value(spec))
                if spec.options.get("control_after_generate"):
                    saved.append("fixed")
        return saved

    def properties(self) -> dict:
        ours = self.kind.startswith("Vega")
        found = {"cnr_id": OURS["name"] if ours else "comfy-core", "ver": OURS["version"] if ours else VERSION}
        found["Node name for S&R"] = self.kind
        models = [given for given in self.inputs.values() if isinstance(given, Model)]
        if models:
            found["models"] = [{"name": m.name, "url": m.url, "directory": m.directory} for m in models]
        return found

    def saved_inputs(self, links: dict[tuple[int, str], int]) -> list[dict]:
        """Sockets first, then the widgets, as the frontend orders them."""
        entries = []
        for spec, name, _ in self.sockets():
            growing = spec.kind == AUTOGROW
            kind = self.output_type(0) if growing else spec.kind
            free = growing and name[-1] != "0" or spec.is_optional
            entries.append(
                {
                    **({"label": name.partition(".")[2]} if growing else {}),
                    "name": name,
                    **({"shape": 7} if free else {}),  # drawn as a ring: may be left open
                    "type": kind,
                    "link": links.get((self.id, name)),
                }
            )
        for spec in self.specs:
            if spec.is_widget and not spec.options.get("socketless"):
                optional = {"shape": 7} if spec.is_optional else {}
                link = links.get((self.id, spec.name))
                entries.append(
                    {"name": spec.name, **optional, "type": spec.kind, "widget": {"name": spec.name}, "link": link}
                )
        return entries


def connected(value):
    if isinstance(value, list):
        return [connected(node) for node in value]
    if not isinstance(value, Node):
        return value
    (_,) = value.definition["output"]
    return Output(value, 0)


class Graph:
    def __init__(self, name: str, info: dict):
        """info: the server's answer to GET /object_info."""
        self.name, self.info = name, info
        self.nodes: dict[int, Node] = {}
        self.notes: list[tuple[int, int, str]] = []  # id, y, text
        self.groups: list[tuple[str, tuple[Node, ...]]] = []

    def free_id(self) -> int:
        taken = {*self.nodes, *(id for id, *_ in self.notes)}
        return next(id for id in range(1, len(taken) + 2) if id not in taken)

    def node(self, kind: str, column: int, y: int, title: str | None = None, /, id: int | None = None, **inputs) -> Node:
        """inputs: a widget's value or Model; another node, for its only output; an output; for what grows a list of them."""
        given = {name: connected(value) for name, value in inputs.items()}
        node = Node(id or self.free_id(), kind, column, y, title, self.info[kind], given)
        self.nodes[node.id] = node
        return node

    def note(self, text: str) -> None:
        """Below the first column, where the eye begins."""
        bottom = max(node.y + node.height for node in self.nodes.values() if node.column == 1)
        self.notes.append((self.free_id(), bottom + NOTE_GAP, text))

    def group(self, title: str, *nodes: Node) -> None:
        self.groups.append((title, nodes))

    def columns(self) -> dict[int, int]:
        """The left edge of each column, as wide as its widest node; the first is column 1."""
        widths = {1: SIZES[NOTE][0]}
        for node in self.nodes.values():
            widths[node.column] = max(widths.get(node.column, 0), node.width)
        edges = {1: 0}
        for column in range(1, max(widths)):
            edges[column + 1] = edges[column] + widths[column] + GAP
        return edges

    def order(self) -> dict[int, int]:
        """A place for each node after all that it takes from."""
        waiting = {id: {output.node.id for _, output in node.links()} for id, node in self.nodes.items()}
        ready = [id for id, sources in waiting.items() if not sources]
        heapq.heapify(ready)
        place: dict[int, int] = {}
        while ready:
            place[done := heapq.heappop(ready)] = len(place)
            for id, sources in waiting.items():
                if done in sources:
                    sources.remove(done)
                    if not sources:
                        heapq.heappush(ready, id)
        return place

    def saved(self) -> dict:
        """What the browser saves, schema 0.4."""
        edges, order = self.columns(), self.order()
        links, numbers = [], {}
        extensions, reroutes, ids = [], {}, {}  # reroutes: the points that links are led through
        for target in self.nodes.values():
            slots = [entry["name"] for entry in target.saved_inputs({})]
            for name, (source, slot, route) in target.links():
                number = numbers[target.id, name] = len(links) + 1
                links.append([number, source.id, slot, target.id, slots.index(name), source.output_type(slot)])
                parent, path = None, (source.id, slot)
                for column, y in route:
                    path = (*path, column, y)
                    id = ids.setdefault(path, len(ids) + 1)  # links of one output share the points they have in common
                    point = {"id": id, **({"parentId": parent} if parent else {}), "pos": [edges[column] - 2 * GAP // 3, y]}
                    reroutes.setdefault(id, {**point, "linkIds": []})["linkIds"].append(number)
                    parent = id
                if parent:
                    extensions.append({"id": number, "parentId": parent})
        nodes = [self.saved_node(node, edges, order[node.id], links, numbers) for node in self.nodes.values()]
        nodes += [saved_note(note, len(order) + k) for k, note in enumerate(self.notes)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "revision": 0,
            "last_node_id": max(node["id"] for node in nodes),
            "last_link_id": len(links),
            "nodes": sorted(nodes, key=lambda node: node["id"]),
            "links": links,
            "groups": [saved_group(k, *group, edges) for k, group in enumerate(self.groups, 1)],
            "config": {},
            "extra": {
                **({"linkExtensions": extensions, "reroutes": [*reroutes.values()]} if reroutes else {}),
                "ds": {"scale": 0.6, "offset": [140, 240]},  # the least at which the canvas draws text
                "workflowRendererVersion": "LG",
            },
            "version": 0.4,
        }

    def saved_node(self, node: Node, edges: dict[int, int], order: int, links: list, numbers: dict) -> dict:
        outputs = []
        for slot, name in enumerate(node.definition["output_name"]):
            leaving = [link[0] for link in links if link[1:3] == [node.id, slot]]
            outputs.append({"name": name, "type": node.output_type(slot), "links": leaving or None})
        return {
            "id": node.id,
            "type": node.kind,
            "pos": [edges[node.column], node.y],
            "size": [node.width, node.height],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": node.saved_inputs(numbers),
            "outputs": outputs,
            **({"title": node.title} if node.title else {}),
            "properties": node.properties(),
            "widgets_values": node.values(),
        }

    def prompt(self) -> dict:
        """What POST /prompt takes."""
        prompt = {}
        for id, node in sorted(self.nodes.items()):
            linked = {name: [str(output.node.id), output.slot] for name, output in node.links()}
            inputs = {}
            for spec in node.specs:
                if spec.kind == AUTOGROW:
                    inputs |= {name: source for name, source in linked.items() if name.startswith(f"{spec.name}.")}
                elif spec.name in linked:
                    inputs[spec.name] = linked[spec.name]
                elif spec.is_widget:
                    inputs[spec.name] = node.value(spec)
            prompt[str(id)] = {"class_type": node.kind, "inputs": inputs}
        return prompt


def saved_note(note: tuple[int, int, str], order: int) -> dict:
    id, y, text = note
    return {
        "id": id,
        "type": NOTE,
        "pos": [0, y],
        "size": [SIZES[NOTE][0], note_height(text)],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [text],
        "color": "#222",
        "bgcolor": "#000",
    }


def note_height(text: str) -> int:
    """Room for the text at about 50 letters a line, so that nothing has to be scrolled."""
    shown = re.sub(r"\]\([^)]*\)|[*`\[#]", "", text)
    lines = sum(math.ceil(len(line) / 50) for line in shown.splitlines() if line)
    return math.ceil((14 * lines + 12 * text.count("\n\n") + 40) / 10) * 10


def saved_group(id: int, title: str, nodes: tuple[Node, ...], edges: dict[int, int]) -> dict:
    left = min(edges[node.column] for node in nodes) - MARGIN
    top = min(node.y for node in nodes) - TITLE - MARGIN - TITLE
    right = max(edges[node.column] + node.width for node in nodes) + MARGIN
    bottom = max(node.y + node.height for node in nodes) + MARGIN
    bounding = [left, top, right - left, bottom - top]
    return {"id": id, "title": title, "bounding": bounding, "color": "#3f789e", "font_size": 24, "flags": {}}
