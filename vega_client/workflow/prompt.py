"""What is sent of a loaded workflow: the frontend's graphToPrompt."""

from collections.abc import Iterator

from .graph import ABSENT, PRIMITIVE, Graph, Input, Link, Node, Widget
from .primitives import apply_primitive
from .reader import WorkflowReader
from .shapes import WORKFLOW_SHAPE, check_shape
from .subgraphs import SUBGRAPH_INPUT
from .text_replacements import expand_dynamic_prompt, expand_placeholders
from .unmapped_values import unmapped_values

UNCONNECTED = object()  # what an input gets that isn't connected
MUTED_MODE, BYPASS_MODE = 2, 4  # a node's modes: muted, and bypassed
VIRTUAL_NODES = ("Note", "MarkdownNote", "Reroute", PRIMITIVE)
BROWSER_ONLY_NODES = ("Load3D", "WebcamCapture", "RecordAudio")  # what they send is made as the prompt is queued
EXPORT_HINT = "give the file that its File > Export (API) writes"
# The nodes of cg-use-everywhere, whose code in the browser connects them as the prompt is queued.
USE_EVERYWHERE_NODES = {"Anything Everywhere", "Anything Everywhere?", "Anything Everywhere3"}
USE_EVERYWHERE_NODES |= {"Prompts Everywhere", "Seed Everywhere"}
# The nodes in whose file names the frontend fills in %node.widget% and %date:...%.
SAVE_NODES = {"CLIPSave", "LoraSave", "ModelSave", "Save3DAdvanced", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveAudio"}
SAVE_NODES |= {"SaveAudioAdvanced", "SaveAudioMP3", "SaveAudioOpus", "SaveGLB", "SaveGaussianSplat", "SaveImage", "VAESave"}
SAVE_NODES |= {"SaveImageAdvanced", "SaveLatent", "SavePointCloud", "SaveSVGNode", "SaveVideo", "SaveWEBM"}

SubgraphPath = tuple[tuple[Graph, Node | None], ...]  # the graphs around a node, outermost first, each with its instance


def is_api(workflow: object) -> bool:
    """Whether POST /prompt takes it as it is."""
    nodes = list(workflow.values()) if isinstance(workflow, dict) else []
    return bool(nodes) and all(isinstance(node, dict) and "class_type" in node for node in nodes)


def to_api(workflow: dict, object_info: dict) -> dict:
    """The prompt that the frontend would queue; object_info is the server's answer to GET /object_info.

    One workflow gives one prompt, except where the frontend draws lots ({a|b} in a text) or reads the clock (%date:yyyy% in
    a file name). ValueError for a node that the server doesn't have and for what the frontend couldn't load or send.
    """
    check_shape(workflow, WORKFLOW_SHAPE, "The workflow")
    try:
        return convert(workflow, object_info)
    except RecursionError:
        raise ValueError("The workflow's links or subgraphs go round in a circle.") from None


def convert(workflow: dict, object_info: dict) -> dict:
    reader = WorkflowReader(workflow, object_info)
    root = reader.graph(workflow, {})
    for graph in [root, *reader.graphs.values()]:
        for node in graph.nodes.values():
            if node.type == PRIMITIVE:
                apply_primitive(graph, node, root)
    prompt = {}
    for node, path in walk_nodes(((root, None),)):
        if node.mode in (MUTED_MODE, BYPASS_MODE):
            continue
        where = node_path(node, path)
        if node.type in USE_EVERYWHERE_NODES or node.properties.get("ue_convert"):
            raise ValueError(f"Node {where} ({node.title}) is connected to others in the browser alone: {EXPORT_HINT}.")
        if node.subgraph or node.type in VIRTUAL_NODES:
            continue
        if node.type not in object_info:
            if not is_connected(node) and not node.has_widget_inputs:
                continue  # a label or a bookmark that some pack draws in the browser
            raise ValueError(missing_node_message(node, where))
        if node.type in BROWSER_ONLY_NODES:
            raise ValueError(f"Node {where} ({node.title}) sends what only a browser can draw or record.")
        for value in unmapped_values(node, object_info[node.type]):
            what = f"a value ({value}) that only its pack's code in the browser understands"
            raise ValueError(f"Node {where} ({node.title}) has saved {what}: {EXPORT_HINT}.")
        inputs = {widget.name: wrap_list(widget_value(node, widget, root)) for widget in node.widgets}
        inputs |= {entry.name: found for entry in node.inputs if (found := resolve_input(entry, path)) is not UNCONNECTED}
        prompt[where] = {"inputs": inputs, "class_type": node.type, "_meta": {"title": node.title}}
    for node in prompt.values():
        left_out = {k for k, v in node["inputs"].items() if v is ABSENT or isinstance(v, list) and v[0] not in prompt}
        node["inputs"] = {name: value for name, value in node["inputs"].items() if name not in left_out}
    return prompt


def is_connected(node: Node) -> bool:
    return any(entry.link is not None for entry in node.inputs) or any(slot.get("links") for slot in node.outputs)


def missing_node_message(node: Node, where: str) -> str:
    pack = node.properties.get("cnr_id") or node.properties.get("aux_id")
    named = f"Node {where} ({node.title}) is a {node.type!r}"
    if node.type.startswith(("workflow>", "workflow/")):
        known = "an older frontend's group node: once opened in the browser and saved again it is a subgraph"
        return f"{named}, which the server doesn't have, {known}."
    known = f": it is of the pack {pack}" if pack else ""
    return f"{named}, which only the browser knows (then {EXPORT_HINT}) or which the server doesn't have{known}."


def walk_nodes(path: SubgraphPath) -> Iterator[tuple[Node, SubgraphPath]]:
    """Every node that the frontend looks at; a muted subgraph hides its nodes only if it is not in another one."""
    for node in path[-1][0].nodes.values():
        yield node, path
        if node.subgraph and (len(path) > 1 or node.mode not in (MUTED_MODE, BYPASS_MODE)):
            yield from walk_nodes((*path, (node.subgraph, node)))


def node_path(node: Node, path: SubgraphPath) -> str:
    return ":".join([*(instance.id for _, instance in path[1:]), node.id])


def resolve_input(entry: Input, path: SubgraphPath, kind: str | None = None) -> object:
    """What an input gets: [node, slot] of a node that is sent, a value of a subgraph's instance, or UNCONNECTED."""
    graph, instance = path[-1]
    if entry.link is None:
        return UNCONNECTED
    if entry.link not in graph.links:
        raise ValueError(f"The input {entry.name!r} is connected to link {entry.link}, which the workflow doesn't have.")
    link = graph.links[entry.link]
    if link.origin == SUBGRAPH_INPUT and instance:
        outside = get_slot(instance.inputs, link.slot, f"input of node {instance.id}")
        if outside.link is not None:
            return resolve_input(outside, path[:-1])
        return wrap_list(displayed_value(outside.widget)) if outside.widget else UNCONNECTED
    return resolve_output(graph, link, kind or entry.type, path)


def resolve_output(graph: Graph, link: Link, kind: str, path: SubgraphPath) -> object:
    """What comes out of the node where a link begins, for an input of a kind."""
    if link.origin not in graph.nodes:
        raise ValueError(f"A link comes from node {link.origin}, which the workflow doesn't have.")
    node = graph.nodes[link.origin]
    if node.mode == MUTED_MODE:
        return UNCONNECTED
    if node.mode == BYPASS_MODE:
        entry = bypass_source(node, link.slot, kind)
        return resolve_input(entry, path) if entry else UNCONNECTED
    if node.subgraph:
        ends = get_slot(node.subgraph.outputs, link.slot, f"output of node {node.id}")
        inside = next((node.subgraph.links[end] for end in ends if end in node.subgraph.links), None)
        return resolve_output(node.subgraph, inside, kind, (*path, (node.subgraph, node))) if inside else UNCONNECTED
    if node.type in VIRTUAL_NODES:
        return resolve_input(node.inputs[link.slot], path, kind) if 0 <= link.slot < len(node.inputs) else UNCONNECTED
    return [node_path(node, path), link.slot]


def get_slot(slots: list, number: int, what: str) -> object:
    if not 0 <= number < len(slots):
        raise ValueError(f"A link is connected to {what} number {number}, which it doesn't have.")
    return slots[number]


def bypass_source(node: Node, slot: int, kind: str) -> Input | None:
    """The input that a bypassed node passes on as its output: the one beside it, or the first that fits."""
    given = get_slot(node.outputs, slot, f"output of node {node.id}").get("type", "*")
    beside = node.inputs[slot : slot + 1]
    if kind in ("*", ""):
        return next(iter(beside + node.inputs), None)
    fitting = [entry for entry in node.inputs if types_match(entry.type, given) and types_match(entry.type, kind)]
    alike = [entry for entry in node.inputs if entry.type == kind]
    return next(iter([entry for entry in beside if entry in fitting] + alike + fitting), None)


def types_match(one: str, other: str) -> bool:
    """Types may be lists with commas; * and nothing are any type."""
    ones, others = (set(str(kinds).lower().split(",")) for kinds in (one, other))
    return bool(ones & others or {"*", "", "0"} & (ones | others))


def wrap_list(value: object) -> object:
    """A list would be taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value


def displayed_value(widget: Widget) -> object:
    """A widget's value; where that is nothing, what its kind shows instead."""
    if widget.value is None or widget.value is ABSENT:
        if widget.type == "COMBO" and widget.options.get("options"):
            return widget.options["options"][0]
        if widget.type == "STRING" and widget.options.get("multiline"):
            return ""
    return widget.value


def widget_value(node: Node, widget: Widget, root: Graph) -> object:
    value = displayed_value(widget)
    if isinstance(value, str) and widget.options.get("dynamicPrompts"):
        return expand_dynamic_prompt(value)
    return expand_placeholders(value, root) if node.type in SAVE_NODES and widget.name == "filename_prefix" else value
