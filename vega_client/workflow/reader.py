"""A saved workflow, read as the frontend loads it."""

import itertools
from collections.abc import Iterator

from .definitions import apply_definition, drop_forced_values
from .graph import Graph, Input, Link, Node
from .shapes import LINK_SHAPE, WORKFLOW_SHAPE, check_shape
from .subgraphs import apply_proxy_widgets, make_instance


class WorkflowReader:
    """Builds the graphs of a workflow as the frontend holds them: the server's nodes with the saved values."""

    def __init__(self, workflow: dict, object_info: dict):
        self.object_info = object_info
        self.definitions = {definition["id"]: definition for definition in subgraph_definitions(workflow)}
        self.renamed = renumber_duplicate_ids(workflow, self.definitions)
        self.graphs: dict[str, Graph] = {}

    def subgraph(self, kind: str) -> Graph:
        """The graph that all instances of a kind share."""
        if kind not in self.graphs:
            self.graphs[kind] = self.graph(self.definitions[kind], self.renamed[kind])
        return self.graphs[kind]

    def graph(self, saved: dict, names: dict[str, str]) -> Graph:
        def name(node_id: object) -> str:
            return names.get(str(node_id), str(node_id))

        # Version 0.4 has a link's fields in an array, in this order.
        links = [dict(zip(LINK_SHAPE, k, strict=False)) if isinstance(k, list) else k for k in saved.get("links") or ()]
        check_shape(links, [LINK_SHAPE], "The workflow's links")
        graph = Graph(
            nodes={name(node["id"]): self.node(node, name(node["id"])) for node in saved["nodes"]},
            links={k["id"]: Link(name(k["origin_id"]), k["origin_slot"], name(k["target_id"])) for k in links},
            inputs=[Input(i["name"], i.get("type", "*"), links=i.get("linkIds") or []) for i in saved.get("inputs") or ()],
            outputs=[slot.get("linkIds") or [] for slot in saved.get("outputs") or ()],
        )
        for node in graph.nodes.values():
            if node.subgraph:
                apply_proxy_widgets(node, self.renamed[node.type])
        return graph

    def node(self, saved: dict, node_id: str) -> Node:
        kind, values, entries = saved["type"], saved.get("widgets_values") or [], saved.get("inputs") or []
        info = self.object_info.get(kind, {})
        node = Node(
            id=node_id,
            type=kind,
            title=saved.get("title") or info.get("display_name") or kind,
            mode=saved.get("mode") or 0,
            properties=dict(saved.get("properties") or {}),
            values=values if isinstance(values, dict) else dict(enumerate(drop_forced_values(values, info))),
            inputs=[Input(entry["name"], entry.get("type", "*"), entry.get("link")) for entry in entries],
            outputs=list(saved.get("outputs") or ()),
            has_widget_inputs=any(entry.get("widget") for entry in entries),
        )
        if kind in self.definitions:
            node.subgraph = self.subgraph(kind)
            make_instance(node)
        elif info:
            converted = {entry["name"]: entry["widget"]["name"] for entry in entries if entry.get("widget")}
            apply_definition(node, info, converted)
        return node


def kinds(workflow: dict) -> set[str]:
    """The kinds of all its nodes; ValueError where it is none that ComfyUI saves."""
    check_shape(workflow, WORKFLOW_SHAPE, "The workflow")
    return {node["type"] for graph in (workflow, *subgraph_definitions(workflow)) for node in graph["nodes"]}


def subgraph_definitions(saved: dict) -> Iterator[dict]:
    for definition in (saved.get("definitions") or {}).get("subgraphs") or ():
        yield definition
        yield from subgraph_definitions(definition)


def renumber_duplicate_ids(workflow: dict, definitions: dict[str, dict]) -> dict[str, dict[str, str]]:
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
