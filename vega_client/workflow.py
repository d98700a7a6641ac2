"""A workflow as the browser saves it, made the prompt that POST /prompt takes.

The server never reads what the browser saves: the frontend loads it, mends what its older versions wrote and sends an answer
of its own (graphToPrompt). This does the same without a browser, and says what frontend 1.47 says, oddities included.
"""

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

ABSENT = object()  # JavaScript's undefined, which JSON leaves out
OPEN = object()  # what an input gets that isn't connected
NEVER, BYPASS = 2, 4  # a node's modes: muted, and passed through
OUTSIDE = "-10"  # where the links come from that enter a subgraph
PRIMITIVE = "PrimitiveNode"
VIRTUAL = ("Note", "MarkdownNote", "Reroute", PRIMITIVE)
TAKEN_OVER = "proxyBypassedToSubgraphInput"  # a primitive's property: the input that its targets have got instead
BROWSER = ("Load3D", "WebcamCapture", "RecordAudio")  # what they send is drawn or recorded as the prompt is queued
AUTOGROW, CHOICE, MATCH = "COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3", "COMFY_MATCHTYPE_V3"
# The kinds of input that are widgets, and what those show until something is saved.
WIDGETS = dict.fromkeys(("STRING", "TEXTAREA", "MARKDOWN", "PAINTER", "LOAD_3D"), "") | {"COMBO": ABSENT, CHOICE: ABSENT}
WIDGETS |= {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "RANGE": {"min": 0, "max": 1}, "COLOR": "#000000", "COLORS": []}
WIDGETS |= {"BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512}, "BOUNDING_BOXES": [], "IMAGECOMPARE": ["", ""]}
WIDGETS |= {"CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"}}
# The nodes in whose file names the frontend fills in %node.widget% and %date:...%.
SAVING = {"CLIPSave", "LoraSave", "ModelSave", "Save3DAdvanced", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveAudio"}
SAVING |= {"SaveAudioAdvanced", "SaveAudioMP3", "SaveAudioOpus", "SaveGLB", "SaveGaussianSplat", "SaveImage", "VAESave"}
SAVING |= {"SaveImageAdvanced", "SaveLatent", "SavePointCloud", "SaveSVGNode", "SaveVideo", "SaveWEBM"}
COMMENT = re.compile(r"/\*[\s\S]*?\*/|//.*")
ALTERNATIVES = re.compile(r"(?<!\\)\{((?:\\.|[^{}\\])*)(?:\}|$)", re.DOTALL)
# What a file must have to be read at all; a question mark is at what may be missing.
INPUTS = [{"name": str, "link?": int, "linkIds?": [int], "widget?": {"name": str}}]
OUTPUTS = [{"links?": [int], "linkIds?": [int]}]
NODE = {"id": int | str, "type": str, "title?": str, "mode?": int, "properties?": dict, "widgets_values?": list | dict}
NODE |= {"inputs?": INPUTS, "outputs?": OUTPUTS}
WORKFLOW: dict = {"nodes": [NODE], "links?": list, "inputs?": INPUTS, "outputs?": OUTPUTS}
WORKFLOW |= {"last_node_id?": int, "state?": {"lastNodeId?": int}}
SUBGRAPH = WORKFLOW | {"id": str}
SUBGRAPH["definitions?"] = WORKFLOW["definitions?"] = {"subgraphs?": [SUBGRAPH]}
LINK = {"id": int, "origin_id": int | str, "origin_slot": int, "target_id": int | str}


class Link(NamedTuple):
    origin: str
    slot: int
    target: str


@dataclass
class Widget:
    name: str
    value: object
    kind: str = ""
    options: dict = field(default_factory=dict)


@dataclass(eq=False)
class Input:
    """A node's input; or a subgraph's, with the links from it to the nodes inside."""

    name: str
    type: str
    link: object = None
    widget: Widget | None = None
    links: list = field(default_factory=list)


@dataclass(eq=False)
class Node:
    id: str
    kind: str
    title: str
    mode: int
    properties: dict
    values: dict  # the saved ones, by name or number
    inputs: list[Input]
    outputs: list[dict]
    widgets: list[Widget] = field(default_factory=list)
    inner: "Graph | None" = None  # what a subgraph's node, its host, stands for


@dataclass(eq=False)
class Graph:
    nodes: dict[str, Node]
    links: dict[object, Link]
    inputs: list[Input]
    outputs: list[list]  # the links into each output of a subgraph
    hosts: list[Node] = field(default_factory=list)


Path = tuple[tuple[Graph, Node | None], ...]  # the graphs around a node from the outermost in, each with its host


def is_api(workflow: object) -> bool:
    """Whether POST /prompt takes it as it is."""
    nodes = list(workflow.values()) if isinstance(workflow, dict) else []
    return bool(nodes) and all(isinstance(node, dict) and "class_type" in node for node in nodes)


def to_api(workflow: dict, object_info: dict) -> dict:
    """The prompt that the frontend would queue; object_info is the server's answer to GET /object_info.

    One workflow gives one prompt, save where the frontend draws lots ({a|b} in a text) or reads the clock (%date:yyyy% in a
    file name). ValueError for a node that the server doesn't have and for what the frontend couldn't load or send.
    """
    check(workflow, WORKFLOW, "The workflow")
    try:
        return converted(workflow, object_info)
    except RecursionError:
        raise ValueError("The workflow's links or subgraphs go round in a circle.") from None


def check(value: object, shape: object, where: str) -> None:
    """ValueError that names the place where a value isn't of the shape: a type, a list of one, or a dict of them."""
    if not isinstance(value, type(shape) if isinstance(shape, dict | list) else shape):
        raise ValueError(f"{where} is not what ComfyUI saves there.")
    if isinstance(shape, list):
        for k, item in enumerate(value):
            check(item, shape[0], f"{where}[{k}]")
    for key, inner in shape.items() if isinstance(shape, dict) else ():
        name = key.removesuffix("?")
        if value.get(name) is not None:
            check(value[name], inner, f"{where}.{name}")
        elif name == key:
            raise ValueError(f"{where} has no {name}.")


def converted(workflow: dict, object_info: dict) -> dict:
    reader = Reader(workflow, object_info)
    root = reader.graph(workflow, {})
    for graph in [root, *reader.graphs.values()]:
        for node in graph.nodes.values():
            if node.kind == PRIMITIVE:
                apply_primitive(graph, node, root)
    prompt = {}
    for node, path in walk(((root, None),)):
        if node.inner or node.kind in VIRTUAL or node.mode in (NEVER, BYPASS):
            continue
        where = address(node, path)
        if node.kind not in object_info:
            raise ValueError(missing(node, where))
        if node.kind in BROWSER:
            raise ValueError(f"Node {where} ({node.title}) sends what only a browser can draw or record.")
        inputs = {widget.name: sendable(sent(node, widget, root)) for widget in node.widgets}
        inputs |= {entry.name: found for entry in node.inputs if (found := source(entry, path)) is not OPEN}
        prompt[where] = {"inputs": inputs, "class_type": node.kind, "_meta": {"title": node.title}}
    for node in prompt.values():
        left_out = {k for k, v in node["inputs"].items() if v is ABSENT or isinstance(v, list) and v[0] not in prompt}
        node["inputs"] = {name: value for name, value in node["inputs"].items() if name not in left_out}
    return prompt


def missing(node: Node, where: str) -> str:
    pack = node.properties.get("cnr_id") or node.properties.get("aux_id")
    known = f": the pack {pack} is missing" if pack else ""
    if node.kind.startswith(("workflow>", "workflow/")):
        known = ", an older frontend's group node: once opened in the browser and saved again it is a subgraph"
    return f"Node {where} ({node.title}) is a {node.kind!r}, which the server doesn't have{known}."


# What is sent


def walk(path: Path) -> Iterator[tuple[Node, Path]]:
    """Every node that the frontend looks at; a muted subgraph hides its nodes only if it is not in another one."""
    for node in path[-1][0].nodes.values():
        yield node, path
        if node.inner and (len(path) > 1 or node.mode not in (NEVER, BYPASS)):
            yield from walk((*path, (node.inner, node)))


def address(node: Node, path: Path) -> str:
    return ":".join([*(host.id for _, host in path[1:]), node.id])


def source(entry: Input, path: Path, kind: str | None = None) -> object:
    """What an input gets: [node, slot] of a node that is sent, a value from a subgraph's host, or OPEN."""
    graph, host = path[-1]
    if entry.link is None:
        return OPEN
    if entry.link not in graph.links:
        raise ValueError(f"The input {entry.name!r} is connected to link {entry.link}, which the workflow doesn't have.")
    link = graph.links[entry.link]
    if link.origin == OUTSIDE and host:
        outside = at(host.inputs, link.slot, f"input of node {host.id}")
        if outside.link is not None:
            return source(outside, path[:-1])
        return sendable(shown(outside.widget)) if outside.widget else OPEN
    return output(graph, link, kind or entry.type, path)


def output(graph: Graph, link: Link, kind: str, path: Path) -> object:
    """What comes out of the node where a link begins, for an input of a kind."""
    if link.origin not in graph.nodes:
        raise ValueError(f"A link comes from node {link.origin}, which the workflow doesn't have.")
    node = graph.nodes[link.origin]
    if node.mode == NEVER:
        return OPEN
    if node.mode == BYPASS:
        entry = passed(node, link.slot, kind)
        return source(entry, path) if entry else OPEN
    if node.inner:
        ends = at(node.inner.outputs, link.slot, f"output of node {node.id}")
        inside = next((node.inner.links[end] for end in ends if end in node.inner.links), None)
        return output(node.inner, inside, kind, (*path, (node.inner, node))) if inside else OPEN
    if node.kind in VIRTUAL:
        return source(node.inputs[link.slot], path, kind) if 0 <= link.slot < len(node.inputs) else OPEN
    return [address(node, path), link.slot]


def at(slots: list, number: int, what: str) -> object:
    if not 0 <= number < len(slots):
        raise ValueError(f"A link is connected to {what} number {number}, which it doesn't have.")
    return slots[number]


def passed(node: Node, slot: int, kind: str) -> Input | None:
    """The input that a bypassed node passes on as its output: the one beside it, or the first that fits."""
    given = at(node.outputs, slot, f"output of node {node.id}").get("type", "*")
    beside = node.inputs[slot : slot + 1]
    if kind in ("*", ""):
        return next(iter(beside + node.inputs), None)
    fitting = [entry for entry in node.inputs if fits(entry.type, given) and fits(entry.type, kind)]
    alike = [entry for entry in node.inputs if entry.type == kind]
    return next(iter([entry for entry in beside if entry in fitting] + alike + fitting), None)


def fits(one: str, other: str) -> bool:
    """Types may be lists with commas; * and nothing are any type."""
    ones, others = (set(str(kinds).lower().split(",")) for kinds in (one, other))
    return bool(ones & others or {"*", "", "0"} & (ones | others))


def sendable(value: object) -> object:
    """A list would be taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def shown(widget: Widget) -> object:
    """A widget's value; where that is nothing, what its kind shows instead."""
    if widget.value is None or widget.value is ABSENT:
        if widget.kind == "COMBO" and widget.options.get("options"):
            return widget.options["options"][0]
        if widget.kind == "STRING" and widget.options.get("multiline"):
            return ""
    return widget.value


def sent(node: Node, widget: Widget, root: Graph) -> object:
    value = shown(widget)
    if isinstance(value, str) and widget.options.get("dynamicPrompts"):
        return picked(value)
    return filled(value, root) if node.kind in SAVING and widget.name == "filename_prefix" else value


def picked(text: str) -> str:
    """One of each {these|those}, and no comments."""
    text = COMMENT.sub("", text)
    while found := ALTERNATIVES.search(text):
        text = text[: found.start()] + random.choice(re.split(r"(?<!\\)\|", found[1])) + text[found.end() :]
    return re.sub(r"\\([{}|])", r"\1", text)


def filled(text: object, root: Graph) -> object:
    """%date:...% and %node.widget% replaced by what they stand for."""

    def stood_for(found: re.Match) -> str:
        if found[1].startswith("date:"):
            return dated(found[1].removeprefix("date:"))
        name, _, widget_name = found[1].partition(".")
        nodes = list(every(root))
        named = [node for node in nodes if node.properties.get("Node name for S&R", node.kind) == name]
        named += [node for node in nodes if node.title == name]
        values = [widget.value for node in named[:1] for widget in node.widgets if widget.name == widget_name]
        if not values:
            return found[0]
        value = "" if values[0] in (None, ABSENT) else values[0]
        value = value if isinstance(value, str) else json.dumps(value).removesuffix(".0")
        return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", value)

    return re.sub("%([^%]+)%", stood_for, text) if isinstance(text, str) else text


def every(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes.values():
        yield from every(node.inner) if node.inner else ()
        yield node


def dated(pattern: str) -> str:
    now = datetime.now()
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}
    years = {"yyyy": str(now.year), "yyy": "yyy", "yy": str(now.year)[2:]}
    return re.sub(r"yyyy?|yy|([dMhms])\1?", lambda p: years.get(p[0]) or str(parts[p[0][0]]).zfill(len(p[0])), pattern)


# What a file says


class Reader:
    """Builds the graphs of a workflow as the frontend holds them: the server's nodes with the saved values."""

    def __init__(self, workflow: dict, object_info: dict):
        self.object_info = object_info
        self.definitions = {definition["id"]: definition for definition in definitions(workflow)}
        self.renamed = renamed(workflow, self.definitions)
        self.graphs: dict[str, Graph] = {}

    def inner(self, kind: str) -> Graph:
        """The graph that every host of a kind shares."""
        if kind not in self.graphs:
            self.graphs[kind] = self.graph(self.definitions[kind], self.renamed[kind])
        return self.graphs[kind]

    def graph(self, saved: dict, names: dict[str, str]) -> Graph:
        def name(node_id: object) -> str:
            return names.get(str(node_id), str(node_id))

        # Version 0.4 has a link's fields in an array, in this order.
        links = [dict(zip(LINK, k, strict=False)) if isinstance(k, list) else k for k in saved.get("links") or ()]
        check(links, [LINK], "The workflow's links")
        graph = Graph(
            nodes={name(node["id"]): self.node(node, name(node["id"])) for node in saved["nodes"]},
            links={k["id"]: Link(name(k["origin_id"]), k["origin_slot"], name(k["target_id"])) for k in links},
            inputs=[Input(i["name"], i.get("type", "*"), links=i.get("linkIds") or []) for i in saved.get("inputs") or ()],
            outputs=[slot.get("linkIds") or [] for slot in saved.get("outputs") or ()],
        )
        for node in graph.nodes.values():
            if node.inner:
                promote(node, self.renamed[node.kind])
        return graph

    def node(self, saved: dict, node_id: str) -> Node:
        kind, values, entries = saved["type"], saved.get("widgets_values") or [], saved.get("inputs") or []
        info = self.object_info.get(kind, {})
        node = Node(
            id=node_id,
            kind=kind,
            title=saved.get("title") or info.get("display_name") or kind,
            mode=saved.get("mode") or 0,
            properties=dict(saved.get("properties") or {}),
            values=values if isinstance(values, dict) else dict(enumerate(without_forced(values, info))),
            inputs=[Input(entry["name"], entry.get("type", "*"), entry.get("link")) for entry in entries],
            outputs=list(saved.get("outputs") or ()),
        )
        if kind in self.definitions:
            node.inner = self.inner(kind)
            become_host(node)
        elif info:
            define(node, info, {entry["name"]: entry["widget"]["name"] for entry in entries if entry.get("widget")})
        return node


def definitions(saved: dict) -> Iterator[dict]:
    for definition in (saved.get("definitions") or {}).get("subgraphs") or ():
        yield definition
        yield from definitions(definition)


def renamed(workflow: dict, definitions: dict[str, dict]) -> dict[str, dict[str, str]]:
    """New ids for the nodes of each subgraph whose ids are taken elsewhere in the workflow."""
    last = workflow.get("last_node_id") or (workflow.get("state") or {}).get("lastNodeId") or 0
    used = {str(node["id"]) for node in workflow["nodes"] if isinstance(node["id"], int)}
    names: dict[str, dict[str, str]] = {kind: {} for kind in definitions}
    for kind, definition in definitions.items():
        for node in definition["nodes"]:
            node_id = str(node["id"])
            if node_id in used:
                last = next(k for k in itertools.count(last + 1) if str(k) not in used)
                names[kind][node_id] = node_id = str(last)
            elif node_id.isdecimal():
                last = max(last, int(node_id))
            used.add(node_id)
    return names


# The server's nodes


def specs(info: dict) -> list[tuple[str, str, dict]]:
    """(name, kind, options) of the inputs of a definition, in the order of their saved values."""
    found = []
    for group in ("required", "optional"):
        inputs = info.get("input", {}).get(group) or {}
        names = dict.fromkeys([*((info.get("input_order") or {}).get(group) or ()), *inputs])
        found += [(name, *spec(*inputs[name])) for name in names if name in inputs]
    return found


def spec(kind: str | list, options: dict | None = None) -> tuple[str, dict]:
    """The oldest definitions have the list of what can be chosen as an input's kind."""
    return ("COMBO", {**(options or {}), "options": kind}) if isinstance(kind, list) else (kind, options or {})


def is_widget(kind: str, options: dict) -> bool:
    return options.get("widgetType", kind) in WIDGETS and not options.get("forceInput")


def without_forced(values: list, info: dict) -> list:
    """Before frontend 1.16 inputs that are never widgets had values, too."""
    forced = []
    for _, kind, options in specs(info):
        if is_widget(kind, options) or options.get("forceInput"):
            forced += [bool(options.get("forceInput"))] + [False] * bool(options.get("control_after_generate"))
    return [v for v, never in zip(values, forced, strict=True) if not never] if len(values) == len(forced) else values


def define(node: Node, info: dict, converted: dict[str, str]) -> None:
    """Gives a node the inputs of its definition, sockets first, and what is saved for them.

    Saved inputs that the definition lacks stay, except those of widgets (converted: input -> widget) that it lacks.
    """
    saved = {entry.name: entry for entry in node.inputs}
    numbers = itertools.count()
    node.inputs = []

    def value(name: str, default: object) -> object:
        # Some packs' nodes save theirs by name.
        number = next(numbers)
        return next((node.values[key] for key in (name, number, str(number)) if key in node.values), default)

    def socket(name: str, kind: str, widget: Widget | None = None) -> None:
        node.inputs.append(Input(name, kind, saved[name].link if name in saved else None, widget))

    def lay_out(name: str, kind: str, options: dict) -> None:
        if kind == AUTOGROW:
            for k, grown, kind_grown in autogrown(name, options["template"]):
                if k <= options["template"].get("min", 1) or grown in saved:
                    socket(grown, kind_grown)
        elif kind == MATCH:
            # What such a socket fits was settled by its connections when the file was saved.
            socket(name, saved[name].type if name in saved else "*")
        elif not is_widget(kind, options):
            socket(name, kind)
        else:
            drawn = options.get("widgetType", kind)
            widget = Widget(name, first(drawn, options), drawn, options)
            if drawn != "IMAGECOMPARE":  # which is sent but not saved
                widget.value = value(name, widget.value)
            node.widgets.append(widget)
            if not options.get("socketless"):
                socket(name, kind, widget)
            for companion in companions(name, drawn, options):
                value(companion, None)
            for key, *inner in chosen(widget):
                lay_out(f"{name}.{key}", *inner)

    for given in sorted(specs(info), key=lambda given: is_widget(*given[1:])):
        lay_out(*given)
    if node.kind == "CustomCombo":
        node.widgets += listed(node.widgets[0], value)
    if node.kind in ("SaveGLB", "Preview3D"):
        node.widgets.append(Widget("image", ""))
    names = {entry.name for entry in node.inputs}
    groups = tuple(f"{widget.name}." for widget in node.widgets if widget.kind == CHOICE)
    widgets = {widget.name: widget for widget in node.widgets}
    for name, entry in saved.items():
        entry.widget = widgets.get(converted.get(name))
        if not (name in names or name.startswith(groups) or name in converted and not entry.widget):
            node.inputs.append(entry)
    for k, kind in enumerate(info["output"]):
        if kind != MATCH or k >= len(node.outputs):
            node.outputs[k : k + 1] = [{"type": "COMBO" if isinstance(kind, list) else "*" if kind == MATCH else kind}]


def autogrown(name: str, template: dict) -> Iterator[tuple[int, str, str]]:
    """(number, name, kind) of each socket that an autogrowing input can have."""
    inputs, names = specs(template), template.get("names")
    for k in range(len(names) if names else template.get("max", 100)):
        for key, kind, _ in inputs:
            stem = template.get("prefix", "") if len(inputs) == 1 else key
            yield k, f"{name}.{names[k] if names else f'{stem}{k}'}", "*" if kind == MATCH else kind


def first(kind: str, options: dict) -> object:
    """What a widget shows until something is saved."""
    default = options.get("default")
    if kind in ("COMBO", CHOICE):
        choices = [option["key"] if kind == CHOICE else option for option in options.get("options") or ()]
        return (kind == "COMBO" and default) or next(iter(choices), ABSENT)
    return WIDGETS[kind] if default is None else default


def companions(name: str, kind: str, options: dict) -> tuple[str, ...]:
    """The frontend's own widgets beside one, whose values are saved but not sent."""
    if kind == "BOUNDING_BOX":
        return "x", "y", "width", "height"
    if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
        return ("control_after_generate", "control_filter_list")[: 2 if kind == "COMBO" else 1]
    return ()


def chosen(widget: Widget) -> list[tuple[str, str, dict]]:
    """The inputs that come with what is chosen."""
    options = widget.options["options"] if widget.kind == CHOICE else ()
    return next((specs({"input": option["inputs"]}) for option in options if option["key"] == widget.value), [])


def listed(choice: Widget, value: Callable) -> list[Widget]:
    """Custom Combo's own list: where in it the chosen line is, its lines, and an empty one."""
    index = Widget("index", value("index", None))
    lines: list[Widget] = []
    while not lines or lines[-1].value:
        name = f"option{len(lines) + 1}"
        lines.append(Widget(name, value(name, "")))
    index.value = next((k for k, line in enumerate(lines) if line.value == choice.value), -1)
    return [index, *lines]


# What the frontend does after loading


def become_host(node: Node) -> None:
    """A host has the inputs of its graph, with a widget of its own for each that leads to one inside."""
    links = {entry.name: entry.link for entry in node.inputs}
    node.inputs = [
        replace(slot, link=links.get(slot.name), widget=projected(node.inner, slot)) for slot in node.inner.inputs
    ]
    node.inner.hosts.append(node)
    node.widgets = [entry.widget for entry in node.inputs if entry.widget]
    for k, widget in enumerate(node.widgets):
        widget.value = node.values.get(k, widget.value)


def ends(graph: Graph, links: list) -> Iterator[tuple[Node, Input]]:
    """The nodes, and their inputs, that links lead to."""
    for link in links:
        node = graph.nodes.get(graph.links[link].target) if link in graph.links else None
        yield from ((node, entry) for entry in node.inputs if entry.link == link) if node else ()


def projected(graph: Graph, slot: Input) -> Widget | None:
    """The first widget that an input of a subgraph leads to, as a host has it."""
    return next((replace(entry.widget, name=slot.name) for _, entry in ends(graph, slot.links) if entry.widget), None)


def origin(graph: Graph, slot: Input) -> tuple[str, str]:
    """(node, widget) that an input of a subgraph shows; of a host inside, its input."""
    shown = [(node, entry) for node, entry in ends(graph, slot.links) if node.inner or entry.widget]
    return next(((node.id, entry.name if node.inner else entry.widget.name) for node, entry in shown), ("", ""))


def promote(host: Node, names: dict[str, str]) -> None:
    """Makes inputs of the widgets that a host shows without one in older files, and gives them the values saved for it."""
    entries = [(names.get(node_id, node_id), *rest) for node_id, *rest in tuples(host.properties.get("proxyWidgets"))]
    plans = [planned(host, *entry) for entry in entries]  # all before anything is changed
    exposed: dict[Input, str] = {}
    for k, (name, targets, primitive) in enumerate(plans):
        if primitive and len({entry[1] for entry in entries if entry[0] == primitive.id}) > 1:
            continue
        if targets:
            entry = targets[0][1]
            exposed[entry] = exposed.get(entry) or expose(host.inner, name, targets)
            name = exposed[entry]
        if primitive:
            primitive.properties[TAKEN_OVER] = name
        widget = next((entry.widget for entry in host.inputs if entry.name == name), None)
        if widget and host.values.get(k) is not None:
            widget.value = host.values[k]


def tuples(saved: object) -> list[list[str]]:
    """The frontend takes lists of two or three strings here, also as JSON, and nothing if anything else is among them."""
    try:
        entries = json.loads(saved) if isinstance(saved, str) else saved or []
        check(entries, [[str]], "")
    except ValueError:
        return []
    return entries if all(len(entry) in (2, 3) for entry in entries) else []


def planned(host: Node, node_id: str, name: str, within: str | None = None) -> tuple:
    """(name, targets, primitive): the host's input for a widget, where it leads if new, and which primitive it replaces."""
    graph, node = host.inner, host.inner.nodes.get(node_id)
    if node is None:
        return name if node_id == "-1" else None, [], None
    if name not in {widget.name for widget in node.widgets} | {entry.name for entry in node.inputs}:
        while found := re.fullmatch(r"\s*(\d+)\s*:\s*(.+)", name):
            within, name = found.groups()
    linked = [slot.name for slot in graph.inputs if origin(graph, slot) == (node_id, name)]
    linked += [slot.name for slot in graph.inputs if slot.name == node.properties.get(TAKEN_OVER)]
    if linked:
        return linked[0], [], None
    if node.kind == PRIMITIVE:
        return node.title, primitive_targets(graph, node), node
    inside = {slot.name: origin(node.inner, slot) for slot in node.inner.inputs} if node.inner else {}
    shown = [entry for entry in node.inputs if entry.widget]
    found = [entry for entry in shown if name in (entry.name, inside.get(entry.name, ("", ""))[1])]
    if within:
        found = [e for e in shown if inside.get(e.name) == (within, name)] + [e for e in shown if e.name == name]
    return name, [(node, entry) for entry in found[:1]], None


def expose(graph: Graph, name: str, targets: list[tuple[Node, Input]]) -> str:
    """The name of a new input of a subgraph, and so of its hosts, which takes over what the targets were connected to."""
    taken = {slot.name for slot in graph.inputs}
    names = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(1)))
    new = Input(next(n for n in names if n not in taken), targets[0][1].type)
    for node, entry in targets:
        for slot in graph.inputs:
            slot.links = [link for link in slot.links if link != entry.link]
        entry.link = (new.name, node.id, entry.name)
        new.links.append(entry.link)
        graph.links[entry.link] = Link(OUTSIDE, len(graph.inputs), node.id)
    graph.inputs.append(new)
    for host in graph.hosts:
        host.inputs.append(replace(new, widget=projected(graph, new)))
    return new.name


def primitive_targets(graph: Graph, node: Node) -> list[tuple[Node, Input]]:
    return list(ends(graph, node.outputs[0].get("links") or [])) if node.outputs else []


def apply_primitive(graph: Graph, node: Node, root: Graph) -> None:
    """A primitive's value goes to the widgets that it is connected to, as they take it."""
    for _, entry in primitive_targets(graph, node):
        if entry.widget and 0 in node.values:
            replaces = node.properties.get("Run widget replace on values")
            value = filled(node.values[0], root) if replaces else node.values[0]
            number = isinstance(value, int | float) and entry.widget.kind in ("INT", "FLOAT")
            entry.widget.value = stepped(value, entry.widget) if number else value


def stepped(value: float, widget: Widget) -> float:
    """Within the limits; in whole steps from the lowest, or with the digits that a step has."""
    low, step = widget.options.get("min", 0), widget.options.get("step")
    value = min(max(value, low), widget.options.get("max", 2048))
    if widget.kind == "INT":
        offset = low % (step or 1)
        return math.floor((value - offset) / (step or 1) + 0.5) * (step or 1) + offset
    digits = max(0, -math.floor(math.log10(step or 0.5)))
    unit = widget.options.get("round") or (digits and 10**-digits)
    return round(math.floor(value / unit + 0.5) * unit, digits) if unit else value
