"""The shipped workflows, flat and by level, and what a node's definition says of the values that they save."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from vega_pack.nodes import model_lists

from dev import templates

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FIRST_NAMES = {
    template.title: name for name, template in templates.TEMPLATES.items()
}  # of which the API's graphs are called
NOTES = ("Note", "MarkdownNote")  # the frontend's own, never executed
SHIPPED = {model_lists.EMBEDDED_MODEL, model_lists.EMBEDDED_LORA}
LOADERS = {"VegaLoader": "model_name", "VegaLCMLora": "lora_name", "VegaLoraLoader": "lora_name"}
LOADERS |= {"ControlNetLoader": "control_net_name"}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def template(name: str) -> dict:
    """The file of a template by its first name."""
    return read(ROOT / "workflows" / f"{templates.TEMPLATES[name].title}.json")


def for_programs(path: Path) -> dict:
    """The same graph in the API's form."""
    return read(ROOT / "workflows" / "api" / f"{FIRST_NAMES[path.stem]}.json")


def subgraphs(workflow: dict) -> list[dict]:
    return workflow["definitions"]["subgraphs"]


def levels(workflow: dict) -> list[dict]:
    """The graph as it opens, and what is inside its subgraphs."""
    return [workflow, *subgraphs(workflow)]


def nodes(workflow: dict) -> Iterator[dict]:
    """Of all levels; neither notes nor the nodes that stand for subgraphs."""
    kinds = {subgraph["id"] for subgraph in subgraphs(workflow)}
    for level in levels(workflow):
        yield from (node for node in level["nodes"] if node["type"] not in (*NOTES, *kinds))


def note(workflow: dict) -> str:
    (text,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    return text


def linked(path: Path) -> set[tuple[str, str]]:
    """(class, input) of what comes over a link, in the graph for programs."""
    prompt = for_programs(path).values()
    return {(n["class_type"], name) for n in prompt for name, value in n["inputs"].items() if isinstance(value, list)}


def needed(workflow: dict) -> list[tuple[dict, str]]:
    """(node, model) of each model that neither the pack brings nor the template makes, whose name comes over a link."""
    found = [(node, node["widgets_values"][0]) for node in nodes(workflow) if node["type"] in LOADERS]
    return [(node, name) for node, name in found if name and name not in SHIPPED]


every = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: FIRST_NAMES[path.stem])


def trains(path: Path) -> bool:
    """Whether it takes minutes."""
    return any(node["class_type"].startswith("VegaTrain") for node in for_programs(path).values())


# Those that run with what the pack brings.
READY = [path for path in WORKFLOWS if not needed(read(path))]
ready = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.soak] * trains(path)) for path in READY],
    ids=lambda path: FIRST_NAMES[path.stem],
)


def specs(definition: dict):
    """(name, kind, options) of the inputs, in the order in which a workflow saves the widgets' values."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in definition["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            yield (name, "COMBO", {**options, "options": kind}) if isinstance(kind, list) else (name, kind, options)


def widgets(definition: dict):
    kinds = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
    return [spec for spec in specs(definition) if spec[1] in kinds]
