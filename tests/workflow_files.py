"""The shipped workflows, and what a node's definition says of the values that they save."""

import json
from pathlib import Path

import pytest
from vega_pack.nodes import model_lists

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NOTES = ("Note", "MarkdownNote")  # the frontend's own, never executed
SHIPPED = {model_lists.EMBEDDED_MODEL, model_lists.EMBEDDED_LORA}
LOADERS = {"VegaLoader": "model_name", "VegaLCMLora": "lora_name", "VegaLoraLoader": "lora_name"}
LOADERS |= {"ControlNetLoader": "control_net_name"}


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def needed(workflow: dict) -> list[tuple[dict, str]]:
    """(node, model) of each model that the pack doesn't bring."""
    found = [(n, n["widgets_values"][0]) for n in workflow["nodes"] if n["type"] in LOADERS]
    return [(node, name) for node, name in found if name not in SHIPPED]


every = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
# Those that run with what the pack brings.
ready = pytest.mark.parametrize("path", [p for p in WORKFLOWS if not needed(read(p))], ids=lambda path: path.stem)


def specs(definition: dict):
    """(name, kind, options) of the inputs, in the order in which a workflow saves the widgets' values."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in definition["input"].get(group, {}).items():
            options = rest[0] if rest else {}
            yield (name, "COMBO", {**options, "options": kind}) if isinstance(kind, list) else (name, kind, options)


def widgets(definition: dict):
    kinds = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
    return [spec for spec in specs(definition) if spec[1] in kinds]
