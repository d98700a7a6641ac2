"""The shipped workflows: against the nodes' definitions, against their API twins, and against the running server."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psnr import psnr
from workflow_files import NOTES, WORKFLOWS, every, needed, read, ready, specs, widgets

from dev import templates, thumbnails
from vega_client import Client
from vega_client.workflow import to_api

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"VegaLoader": "checkpoints", "VegaLCMLora": "loras", "VegaLoraLoader": "loras", "ControlNetLoader": "controlnet"}
AFTER = ("fixed", "increment", "decrement", "randomize")
GROWING, MATCHING = "COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"


def takes(kind: str, options: dict, value) -> bool:
    if kind in ("INT", "FLOAT"):
        whole = isinstance(value, int) or kind == "FLOAT" and isinstance(value, float)
        return whole and options.get("min", value) <= value <= options.get("max", value)
    if kind == "COMBO":
        return value in options["options"]
    if kind == "COLOR":
        return re.fullmatch("#[0-9a-f]{6}", value) is not None
    return isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind])


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info").json()


def test_the_files_are_what_their_program_writes(info):
    """A workflow that was changed in the browser belongs into dev/templates.py, too."""
    written = templates.written(info)
    assert [path for path, text in written.items() if path.read_text(encoding="utf-8") != text] == []
    assert sorted(path for path in written if path.parent.name == "workflows") == WORKFLOWS
    assert sorted((ROOT / "workflows" / "api").iterdir()) == sorted(path for path in written if path.parent.name == "api")


@every
def test_the_twin_is_the_same_graph(path, info):
    sent = {templates.FOR_PROGRAMS.get(path.stem, {}).get(id, id): node for id, node in to_api(read(path), info).items()}
    assert {id: {"class_type": n["class_type"], "inputs": n["inputs"]} for id, n in sent.items()} == read(
        path.parent / "api" / path.name
    )


@every
def test_every_node_is_known_and_its_values_are_valid(path, info):
    workflow = read(path)
    assert workflow["version"] == 0.4
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values = iter(node["widgets_values"])
        for name, kind, options in widgets(info[node["type"]]):
            value = next(values)
            where = f"{node['type']}.{name} = {value!r}"
            assert takes(kind, options, value) or (node, value) in needed(workflow), where
            if options.get("control_after_generate"):
                assert next(values) in AFTER  # the frontend's own widget
        assert next(values, None) is None, f"{node['type']} saves more values than it has widgets"
        assert node["properties"]["Node name for S&R"] == node["type"]


@every
def test_links_fit_the_sockets(path, info):
    workflow = read(path)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    ends = [(link[3], link[4]) for link in workflow["links"]]
    assert len(ends) == len(set(ends))
    for link, source, slot, target, target_slot, kind in workflow["links"]:
        left, right = nodes[source]["outputs"][slot], nodes[target]["inputs"][target_slot]
        assert link in left["links"]
        assert right["link"] == link
        assert info[nodes[source]["type"]]["output"][slot] in (kind, MATCHING)
        assert left["type"] == right["type"] == kind
    for node in nodes.values():
        if node["type"] in NOTES:
            continue
        connected = {entry["name"] for entry in node["inputs"] if entry["link"]}
        definition = info[node["type"]]
        needs = {name for name, kind, _ in specs(definition) if name in definition["input"]["required"] and kind != GROWING}
        assert needs - {name for name, *_ in widgets(definition)} <= connected, f"{node['type']} has an open input"


@every
def test_a_note_says_what_to_do(path):
    (note,) = [node for node in read(path)["nodes"] if node["type"] in NOTES]
    text = note["widgets_values"][0]
    assert text.startswith("## ")
    assert 40 < len(text.split()) < 250
    assert "{" not in text


@every
def test_a_few_step_model_is_accelerated(path):
    """A few-step model is accelerated, right before its sampler."""
    workflow = read(path)
    types = {node["id"]: node["type"] for node in workflow["nodes"]}
    samplers = [node for node in workflow["nodes"] if node["type"] == "VegaLCMSampler"]
    assert samplers
    for node in samplers:
        (source,) = [link[1] for link in workflow["links"] if link[3:5] == [node["id"], 0]]
        assert types[source] == "VegaAccelerate"
    assert {tuple(node["widgets_values"]) for node in workflow["nodes"] if node["type"] == "VegaAccelerate"} == {("auto",)}


@every
def test_models_that_are_not_shipped_say_where_they_are(path):
    """As ComfyUI's frontend wants it (missingModelScan.ts, missingModelDownload.ts). It knows no folders: the note does."""
    workflow = read(path)
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    for node, name in needed(workflow):
        if name.endswith("/"):
            assert f"https://huggingface.co/segmind/{name.strip('/')}/" in note
            continue
        (model,) = node["properties"]["models"]
        assert model["name"] == name
        assert model["directory"] == FOLDERS[node["type"]]
        assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w.-]+\.safetensors", model["url"])
        assert f"[{name}]({model['url']})" in note
        saved_as = model["url"].rpartition("/")[2]
        assert name == saved_as or f"saved by browsers as {saved_as}" in note
    offered = [node for node in workflow["nodes"] if node["properties"].get("models")]
    assert offered == [node for node, name in needed(workflow) if not name.endswith("/")]


@every
def test_a_thumbnail_lies_beside_it(path):
    """The frontend asks for a .jpg of the same name (workflowTemplatesStore.ts)."""
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert 256 <= max(thumbnail.size) <= thumbnails.MAX_SIDE_PIXELS


@every
def test_the_template_browser_offers_it_with_a_thumbnail(path, server):
    offered = server.get("/workflow_templates").json()
    assert path.stem in offered[ROOT.name]
    served = server.get(f"/api/workflow_templates/{ROOT.name}/{path.name}")
    assert served.json() == read(path)
    assert server.get(f"/api/workflow_templates/{ROOT.name}/{path.stem}.jpg").content[:3] == b"\xff\xd8\xff"


@ready
def test_the_thumbnail_is_what_the_workflow_draws(path, server):
    with Client(server.url) as client:
        drawn = thumbnails.draw(client, read(path.parent / "api" / path.name))
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        size = min(drawn.size, thumbnail.size)  # small ones are shown enlarged, large ones made smaller
        one = np.asarray(drawn.resize(size, Image.Resampling.LANCZOS), dtype=float)
        other = np.asarray(thumbnail.resize(size, Image.Resampling.BOX), dtype=float)
    assert psnr(one, other) > 28


def test_live_drawing_repeats_no_work(client):
    """A new seed runs the sampler and what follows, a new text the text encoder as well."""
    prompt = read(ROOT / "workflows" / "api" / "vega_live_drawing.json")

    def ran(node_class: str, **changes) -> set[str]:
        for node in prompt.values():
            if node["class_type"] == node_class:
                node["inputs"] |= changes
        events = client.events(client.queue(prompt))
        return {prompt[data["node"]]["class_type"] for kind, data in events if kind == "executing" and data["node"]}

    ran("VegaLCMSampler", seed=101)
    drawing = {"VegaLCMSampler", "VegaTinyVAEDecode", "VegaSendImage"}
    assert ran("VegaLCMSampler", seed=102) == drawing
    assert ran("CLIPTextEncode", text="day, hills, a house") == drawing | {"CLIPTextEncode"}
