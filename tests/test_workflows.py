"""The shipped workflows against the running server, and each against its API twin."""

import json
from pathlib import Path

import numpy as np
import pytest
import thumbnails
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NOTES = ("Note", "MarkdownNote")  # the frontend's own, never executed


def widgets(definition: dict):
    """(name, options) of the widget inputs in the order in which a UI workflow saves their values."""
    for group in ("required", "optional"):
        for name, spec in definition["input"].get(group, {}).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") or isinstance(kind, list):
                yield name, kind, options


def to_api(workflow: dict, info: dict) -> dict:
    """A UI workflow as the frontend would queue it."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs = {i["name"]: links[i["link"]] for i in node["inputs"] if i.get("link")}
        values = iter(node["widgets_values"])
        for name, _, options in widgets(info[node["type"]]):
            value = next(values)
            inputs.setdefault(name, value)
            if options.get("control_after_generate"):
                next(values)  # fixed, increment, decrement or randomize: the frontend's own widget
        assert next(values, None) is None, f"{node['type']} saves more values than it has widgets"
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info").json()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_the_twin_is_the_same_graph(path, info):
    twin = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    assert to_api(json.loads(path.read_text(encoding="utf-8")), info) == twin


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_links_fit_the_sockets_and_nothing_overlaps(path, info):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    nodes = {n["id"]: n for n in workflow["nodes"]}
    for link_id, source, slot, target, target_slot, kind in workflow["links"]:
        assert link_id in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][target_slot]["link"] == link_id
        assert info[nodes[source]["type"]]["output"][slot] == kind
        assert nodes[source]["pos"][0] < nodes[target]["pos"][0], "read from left to right"
    boxes = [(*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in nodes.values()]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_the_template_browser_offers_it_with_a_thumbnail(path, server):
    offered = server.get("/workflow_templates").json()
    assert path.stem in offered[ROOT.name]
    served = server.get(f"/api/workflow_templates/{ROOT.name}/{path.name}")
    assert served.json() == json.loads(path.read_text(encoding="utf-8"))
    assert server.get(f"/api/workflow_templates/{ROOT.name}/{path.stem}.jpg").content[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_the_thumbnail_is_what_the_workflow_draws(path, client):
    drawn = thumbnails.draw(client, json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8")))
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        shown = thumbnail.resize(drawn.size, Image.Resampling.BOX)
    error = np.square(np.asarray(drawn, dtype=float) - np.asarray(shown)).mean()
    assert 10 * np.log10(255**2 / error) > 28
