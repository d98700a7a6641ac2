"""The graph as encoded images carry it: strict JSON, without the images that were sent inside it."""

import json
import math
import re
from collections.abc import Iterator, Set
from typing import NamedTuple

RECEIVER_TYPE = "VegaReceiveImage"  # its one input is an image in base64
MIN_BASE64_CHARACTERS = 32  # no image file is shorter in base64
# The start of a PNG, JPEG or WebP file in base64, in either alphabet, or of its data URL; and what a part of one is like.
IMAGE_START = re.compile(r"\ufeff?\s*(data:[^,]*,)?\s*(iVBORw0KGgo|([/_]|%2F)9j([/_]|%2F)|UklGR)", re.IGNORECASE)
CAMERA_FRAME = re.compile(r"data:image/jpeg;source=(webcam|screen);base64,")  # as web/js/live_image.js writes it
BASE64_PIECE = re.compile(r"[A-Za-z0-9+/_=-]{256,}\s*")
LEFT_OUT_TEXT = "(the picture was left out of this file: put one here)"


class Node(NamedTuple):
    """A node: its type, the texts in its inputs or widgets, and the ids of the nodes that its inputs come from."""

    class_type: str
    texts: list[str]
    upstream: list[str]


def serialize(prompt: dict | None, extra_pnginfo: dict | None) -> tuple[str | None, dict[str, str]]:
    """(the prompt, what stands under each key of extra_pnginfo) as JSON, with LEFT_OUT for each image sent inside."""
    extra_pnginfo = extra_pnginfo or {}
    images = embedded_images(prompt, extra_pnginfo.get("workflow"))
    others = {key: strict_json(value, images) for key, value in extra_pnginfo.items()}
    return None if prompt is None else strict_json(prompt, images), others


def strict_json(value, images: Set[str] = frozenset()) -> str:
    """JSON as every reader takes it: null for NaN, infinity and what JSON has no word for; LEFT_OUT for the images."""

    def clean(value):
        match value:
            case str():
                return LEFT_OUT_TEXT if value in images else value
            case float():
                return value if math.isfinite(value) else None
            case dict():
                return {key: clean(one) for key, one in value.items()}
            case list() | tuple():
                return [clean(one) for one in value]
        return value

    return json.dumps(clean(value), allow_nan=False, default=lambda _: None)


def embedded_images(prompt, workflow) -> set[str]:
    """The images that were typed into Receive Image, a node before it or a subgraph around it, and what a camera saw."""
    by_subgraph = {str(graph.get("id")): workflow_nodes(graph) for graph in subgraphs(as_dict(workflow))}
    receivers = {RECEIVER_TYPE}
    for _ in by_subgraph:  # a subgraph may be inside another one
        receivers |= {id for id, nodes in by_subgraph.items() if receivers & {node.class_type for node in nodes.values()}}
    graphs = [prompt_nodes(prompt), workflow_nodes(as_dict(workflow)), *by_subgraph.values()]
    images = {text for nodes in graphs for text in upstream_images(nodes, receivers)}
    every = list(walk_strings([prompt, workflow]))
    if images:  # they may also stand where nothing leads to a receiver any more
        images |= {text for text in every if len(text) >= MIN_BASE64_CHARACTERS and IMAGE_START.match(text)}
    return images | {text for text in every if CAMERA_FRAME.match(text)}


def upstream_images(nodes: dict[str, Node], receivers: set[str]) -> Iterator[str]:
    """The images in the receivers and in the nodes before them."""
    pending, seen = [id for id, node in nodes.items() if node.class_type in receivers], set()
    while pending:
        id = pending.pop()
        if id in seen or id not in nodes:
            continue
        seen.add(id)
        class_type, texts, upstream = nodes[id]
        pending += upstream
        yield from (text for text in texts if len(text) >= MIN_BASE64_CHARACTERS and is_image(class_type, text))


def is_image(class_type: str, text: str) -> bool:
    return class_type == RECEIVER_TYPE or bool(IMAGE_START.match(text) or BASE64_PIECE.fullmatch(text))


def prompt_nodes(prompt) -> dict[str, Node]:
    """The nodes of a prompt in the API format."""
    nodes = {}
    for id, node in as_dict(prompt).items():
        values = as_dict(as_dict(node).get("inputs")).values()
        texts = [value for value in values if isinstance(value, str)]
        upstream = [str(value[0]) for value in values if isinstance(value, list) and len(value) == 2]
        nodes[id] = Node(str(as_dict(node).get("class_type")), texts, upstream)
    return nodes


def workflow_nodes(graph: dict) -> dict[str, Node]:
    """The nodes of a workflow, or of one of its subgraphs, as the frontend saves it."""
    nodes = {
        str(node.get("id")): Node(str(node.get("type")), [*walk_strings(node.get("widgets_values"))], [])
        for node in only_dicts(graph.get("nodes"))
    }
    links = graph.get("links")
    for link in links if isinstance(links, list) else ():
        match link:
            case [_, origin, _, target, *_] | {"origin_id": origin, "target_id": target} if str(target) in nodes:
                nodes[str(target)].upstream.append(str(origin))
    return nodes


def subgraphs(graph: dict) -> Iterator[dict]:
    """What is defined in a workflow, or in one of its subgraphs."""
    for one in only_dicts(as_dict(graph.get("definitions")).get("subgraphs")):
        yield one
        yield from subgraphs(one)


def walk_strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from walk_strings(one)


def as_dict(value) -> dict:
    """The value where it is a dict: what comes in a request may be anything."""
    return value if isinstance(value, dict) else {}


def only_dicts(value) -> list[dict]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
