"""What the frontend holds of a workflow that it has loaded: graphs of nodes with their inputs and widgets."""

from dataclasses import dataclass, field
from typing import NamedTuple

ABSENT = object()  # JavaScript's undefined, which JSON leaves out
PRIMITIVE = "PrimitiveNode"


class Link(NamedTuple):
    origin: str
    slot: int
    target: str


@dataclass
class Widget:
    name: str
    value: object
    type: str = ""
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
    type: str
    title: str
    mode: int
    properties: dict
    values: dict  # the saved ones, by name or number
    inputs: list[Input]
    outputs: list[dict]
    unused_values: dict = field(default_factory=dict)  # of those, the ones that no widget takes
    has_widget_inputs: bool = False  # some of its inputs are widgets, which only nodes of a server have
    widgets: list[Widget] = field(default_factory=list)
    subgraph: "Graph | None" = None  # the subgraph of which this node is an instance


@dataclass(eq=False)
class Graph:
    nodes: dict[str, Node]
    links: dict[object, Link]
    inputs: list[Input]
    outputs: list[list]  # the links into each output of a subgraph
    instances: list[Node] = field(default_factory=list)
