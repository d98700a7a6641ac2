"""A subgraph's node in the graph around it, its host: the inputs that it shows of the nodes inside."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from .parts import PRIMITIVE, Graph, Input, Link, Node, Widget
from .shapes import check

OUTSIDE = "-10"  # where the links come from that enter a subgraph
TAKEN_OVER = "proxyBypassedToSubgraphInput"  # a primitive's property: the input that its targets have got instead


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
        elif entries[k][0] in host.inner.nodes and not primitive and not widget:
            host.inner.nodes[entries[k][0]].left[entries[k][1]] = host.values.get(k)


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
