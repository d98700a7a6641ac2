"""The graph as outgoing files carry it: strict JSON, without the pictures that were sent inside it."""

import json
import math
import re
from collections.abc import Iterator, Set
from typing import NamedTuple

RECEIVER = "VegaReceiveImage"  # its one input is a picture in base64
SHORTEST = 32  # characters; no picture file is shorter in base64
# Of a PNG, JPEG or WebP file in base64, in either alphabet, or of its data URL; and what only a part of one is like.
BEGINNING = re.compile(r"\ufeff?\s*(data:[^,]*,)?\s*(iVBORw0KGgo|([/_]|%2F)9j([/_]|%2F)|UklGR)", re.IGNORECASE)
PIECE = re.compile(r"[A-Za-z0-9+/_=-]{256,}\s*")
LEFT_OUT = "(the picture was left out of this file: put one here)"


class Node(NamedTuple):
    """What of a node counts here: its type, the texts in its inputs or widgets, and the ids of the nodes before it."""

    kind: str
    texts: list[str]
    before: list[str]


def texts(prompt: dict | None, extra_pnginfo: dict | None) -> tuple[str | None, dict[str, str]]:
    """(the prompt, what stands under each key of extra_pnginfo) as JSON, with LEFT_OUT for each picture sent inside."""
    extra_pnginfo = extra_pnginfo or {}
    pictures = sent(prompt, extra_pnginfo.get("workflow"))
    others = {key: strict(value, pictures) for key, value in extra_pnginfo.items()}
    return None if prompt is None else strict(prompt, pictures), others


def strict(value, pictures: Set[str] = frozenset()) -> str:
    """JSON as every reader takes it: null for NaN, infinity and what JSON has no word for; LEFT_OUT for the pictures."""

    def said(value):
        match value:
            case str():
                return LEFT_OUT if value in pictures else value
            case float():
                return value if math.isfinite(value) else None
            case dict():
                return {key: said(one) for key, one in value.items()}
            case list() | tuple():
                return [said(one) for one in value]
        return value

    return json.dumps(said(value), allow_nan=False, default=lambda _: None)


def sent(prompt, workflow) -> set[str]:
    """The pictures that were typed into Receive Image, into a node before it, or into a subgraph around it."""
    drawn = {str(graph.get("id")): of_workflow(graph) for graph in subgraphs(a_dict(workflow))}
    receivers = {RECEIVER}
    for _ in drawn:  # a subgraph may be inside another one
        receivers |= {id for id, nodes in drawn.items() if receivers & {node.kind for node in nodes.values()}}
    graphs = [of_prompt(prompt), of_workflow(a_dict(workflow)), *drawn.values()]
    pictures = {text for nodes in graphs for text in given(nodes, receivers)}
    if pictures:  # they may also stand where nothing leads to a receiver any more
        pictures |= {text for text in strings([prompt, workflow]) if len(text) >= SHORTEST and BEGINNING.match(text)}
    return pictures


def given(nodes: dict[str, Node], receivers: set[str]) -> Iterator[str]:
    """The pictures in the receivers and in the nodes before them."""
    ahead, seen = [id for id, node in nodes.items() if node.kind in receivers], set()
    while ahead:
        id = ahead.pop()
        if id in seen or id not in nodes:
            continue
        seen.add(id)
        kind, texts, before = nodes[id]
        ahead += before
        yield from (text for text in texts if len(text) >= SHORTEST and is_given(kind, text))


def is_given(kind: str, text: str) -> bool:
    return kind == RECEIVER or bool(BEGINNING.match(text) or PIECE.fullmatch(text))


def of_prompt(prompt) -> dict[str, Node]:
    nodes = {}
    for id, node in a_dict(prompt).items():
        values = a_dict(a_dict(node).get("inputs")).values()
        before = [str(value[0]) for value in values if isinstance(value, list) and len(value) == 2]
        nodes[id] = Node(str(a_dict(node).get("class_type")), [value for value in values if isinstance(value, str)], before)
    return nodes


def of_workflow(graph: dict) -> dict[str, Node]:
    """The nodes of a workflow, or of one of its subgraphs, as the frontend saves it."""
    nodes = {
        str(node.get("id")): Node(str(node.get("type")), [*strings(node.get("widgets_values"))], [])
        for node in dicts(graph.get("nodes"))
    }
    links = graph.get("links")
    for link in links if isinstance(links, list) else ():
        match link:
            case [_, origin, _, target, *_] | {"origin_id": origin, "target_id": target} if str(target) in nodes:
                nodes[str(target)].before.append(str(origin))
    return nodes


def subgraphs(graph: dict) -> Iterator[dict]:
    """What is defined in a workflow, or in one of its subgraphs."""
    for one in dicts(a_dict(graph.get("definitions")).get("subgraphs")):
        yield one
        yield from subgraphs(one)


def strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


def a_dict(value) -> dict:
    """The value where it is a dict: what comes in a request may be anything."""
    return value if isinstance(value, dict) else {}


def dicts(value) -> list[dict]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
