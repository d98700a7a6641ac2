"""Subgraph instances: the node that stands for a subgraph in its parent graph, and the widgets promoted to its inputs."""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from .graph import PRIMITIVE, Graph, Input, Link, Node, Widget
from .shapes import check_shape

SUBGRAPH_INPUT = "-10"  # the origin of links that enter a subgraph
REPLACED_BY_PROPERTY = "proxyBypassedToSubgraphInput"  # a primitive's property: the input that its targets have got instead


def make_instance(node: Node) -> None:
    """An instance has the inputs of its subgraph, with a widget of its own for each that leads to one inside."""
    links = {entry.name: entry.link for entry in node.inputs}
    node.inputs = [
        replace(slot, link=links.get(slot.name), widget=promoted_widget(node.subgraph, slot))
        for slot in node.subgraph.inputs
    ]
    node.subgraph.instances.append(node)
    node.widgets = [entry.widget for entry in node.inputs if entry.widget]
    for k, widget in enumerate(node.widgets):
        widget.value = node.values.get(k, widget.value)


def link_targets(graph: Graph, links: list) -> Iterator[tuple[Node, Input]]:
    """The nodes, and their inputs, that links lead to."""
    for link in links:
        node = graph.nodes.get(graph.links[link].target) if link in graph.links else None
        yield from ((node, entry) for entry in node.inputs if entry.link == link) if node else ()


def promoted_widget(graph: Graph, slot: Input) -> Widget | None:
    """The first widget that an input of a subgraph leads to, as an instance has it."""
    targets = link_targets(graph, slot.links)
    return next((replace(entry.widget, name=slot.name) for _, entry in targets if entry.widget), None)


def promoted_source(graph: Graph, slot: Input) -> tuple[str, str]:
    """(node, widget) that an input of a subgraph shows; of an instance inside, its input."""
    shown = [(node, entry) for node, entry in link_targets(graph, slot.links) if node.subgraph or entry.widget]
    return next(((node.id, entry.name if node.subgraph else entry.widget.name) for node, entry in shown), ("", ""))


def apply_proxy_widgets(instance: Node, names: dict[str, str]) -> None:
    """Makes inputs of the widgets that older files list in proxyWidgets, with the values saved for the instance."""
    saved = parse_proxy_widgets(instance.properties.get("proxyWidgets"))
    entries = [(names.get(node_id, node_id), *rest) for node_id, *rest in saved]
    plans = [plan_promotion(instance, *entry) for entry in entries]  # all before anything is changed
    promoted: dict[Input, str] = {}
    for k, (name, targets, primitive) in enumerate(plans):
        if primitive and len({entry[1] for entry in entries if entry[0] == primitive.id}) > 1:
            continue
        if targets:
            entry = targets[0][1]
            promoted[entry] = promoted.get(entry) or add_input(instance.subgraph, name, targets)
            name = promoted[entry]
        if primitive:
            primitive.properties[REPLACED_BY_PROPERTY] = name
        widget = next((entry.widget for entry in instance.inputs if entry.name == name), None)
        if widget and instance.values.get(k) is not None:
            widget.value = instance.values[k]
        elif entries[k][0] in instance.subgraph.nodes and not primitive and not widget:
            instance.subgraph.nodes[entries[k][0]].unused_values[entries[k][1]] = instance.values.get(k)


def parse_proxy_widgets(saved: object) -> list[list[str]]:
    """The frontend takes lists of two or three strings here, also as JSON, and nothing if anything else is among them."""
    try:
        entries = json.loads(saved) if isinstance(saved, str) else saved or []
        check_shape(entries, [[str]], "")
    except ValueError:
        return []
    return entries if all(len(entry) in (2, 3) for entry in entries) else []


def plan_promotion(instance: Node, node_id: str, name: str, within: str | None = None) -> tuple:
    """(name, targets, primitive): the instance's input for a widget, where a new one leads, which primitive it replaces."""
    graph, node = instance.subgraph, instance.subgraph.nodes.get(node_id)
    if node is None:
        return name if node_id == "-1" else None, [], None
    if name not in {widget.name for widget in node.widgets} | {entry.name for entry in node.inputs}:
        while found := re.fullmatch(r"\s*(\d+)\s*:\s*(.+)", name):
            within, name = found.groups()
    linked = [slot.name for slot in graph.inputs if promoted_source(graph, slot) == (node_id, name)]
    linked += [slot.name for slot in graph.inputs if slot.name == node.properties.get(REPLACED_BY_PROPERTY)]
    if linked:
        return linked[0], [], None
    if node.type == PRIMITIVE:
        return node.title, primitive_targets(graph, node), node
    inside = {slot.name: promoted_source(node.subgraph, slot) for slot in node.subgraph.inputs} if node.subgraph else {}
    shown = [entry for entry in node.inputs if entry.widget]
    found = [entry for entry in shown if name in (entry.name, inside.get(entry.name, ("", ""))[1])]
    if within:
        found = [e for e in shown if inside.get(e.name) == (within, name)] + [e for e in shown if e.name == name]
    return name, [(node, entry) for entry in found[:1]], None


def add_input(graph: Graph, name: str, targets: list[tuple[Node, Input]]) -> str:
    """Adds an input to a subgraph and its instances, which replaces the targets' connections; returns its name."""
    taken = {slot.name for slot in graph.inputs}
    names = itertools.chain([name], (f"{name}_{k}" for k in itertools.count(1)))
    new = Input(next(n for n in names if n not in taken), targets[0][1].type)
    for node, entry in targets:
        for slot in graph.inputs:
            slot.links = [link for link in slot.links if link != entry.link]
        entry.link = (new.name, node.id, entry.name)
        new.links.append(entry.link)
        graph.links[entry.link] = Link(SUBGRAPH_INPUT, len(graph.inputs), node.id)
    graph.inputs.append(new)
    for instance in graph.instances:
        instance.inputs.append(replace(new, widget=promoted_widget(graph, new)))
    return new.name


def primitive_targets(graph: Graph, node: Node) -> list[tuple[Node, Input]]:
    return list(link_targets(graph, node.outputs[0].get("links") or [])) if node.outputs else []
