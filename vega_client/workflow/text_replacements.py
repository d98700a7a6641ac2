"""What the frontend fills into texts as it queues them."""

import json
import random
import re
from collections.abc import Iterator
from datetime import datetime

from .graph import ABSENT, Graph, Node

COMMENT_PATTERN = re.compile(r"/\*[\s\S]*?\*/|//.*")
ALTERNATIVES_PATTERN = re.compile(r"(?<!\\)\{((?:\\.|[^{}\\])*)(?:\}|$)", re.DOTALL)


def expand_dynamic_prompt(text: str) -> str:
    """One of each {these|those}, and no comments."""
    text = COMMENT_PATTERN.sub("", text)
    while match := ALTERNATIVES_PATTERN.search(text):
        text = text[: match.start()] + random.choice(re.split(r"(?<!\\)\|", match[1])) + text[match.end() :]
    return re.sub(r"\\([{}|])", r"\1", text)


def expand_placeholders(text: object, root: Graph) -> object:
    """%date:...% and %node.widget% replaced by their values."""

    def replacement(match: re.Match) -> str:
        if match[1].startswith("date:"):
            return format_date(match[1].removeprefix("date:"))
        name, _, widget_name = match[1].partition(".")
        nodes = list(all_nodes(root))
        named = [node for node in nodes if node.properties.get("Node name for S&R", node.type) == name]
        named += [node for node in nodes if node.title == name]
        values = [widget.value for node in named[:1] for widget in node.widgets if widget.name == widget_name]
        if not values:
            return match[0]
        value = "" if values[0] in (None, ABSENT) else values[0]
        value = value if isinstance(value, str) else json.dumps(value).removesuffix(".0")
        return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", value)

    return re.sub("%([^%]+)%", replacement, text) if isinstance(text, str) else text


def all_nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes.values():
        yield from all_nodes(node.subgraph) if node.subgraph else ()
        yield node


def format_date(pattern: str) -> str:
    now = datetime.now()
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}
    years = {"yyyy": str(now.year), "yyy": "yyy", "yy": str(now.year)[2:]}
    return re.sub(r"yyyy?|yy|([dMhms])\1?", lambda p: years.get(p[0]) or str(parts[p[0][0]]).zfill(len(p[0])), pattern)
