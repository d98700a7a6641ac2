"""Workflows that the client's converter must refuse, and what of a pack's own values it leaves out."""

import copy
import random
from pathlib import Path

import pytest
from saved_workflows import DRAWN, HANDMADE, SINGLE, golden, node, showing, subgraph, workflow

from vega_client.workflow import is_api, to_api

ROOT = Path(__file__).resolve().parents[1]


INFO = {
    "Load": {"input": {"required": {"name": [["a", "b"]]}}, "output": ["MODEL"], "display_name": "Load it"},
    "Use": {"input": {"required": {"model": ["MODEL"], "steps": ["INT", {"default": 4}]}}, "output": ["MODEL"]},
    "Load3D": {"input": {"required": {"image": ["LOAD_3D", {}]}}, "output": ["IMAGE"]},
}
USE = node(2, "Use", [5], {"model": 1})
ITSELF = subgraph(SINGLE, [node(3, SINGLE)], {}, [])


def test_without_a_browser():
    assert to_api(workflow(node(1, "Load", ["b"], {}, [[1]]), USE), INFO) == {
        "1": {"class_type": "Load", "inputs": {"name": "b"}, "_meta": {"title": "Load it"}},
        "2": {"class_type": "Use", "inputs": {"model": ["1", 0], "steps": 5}, "_meta": {"title": "Use"}},
    }


@pytest.mark.parametrize("value", [None, [], {}, "text", {"1": {"inputs": {}}}, {"nodes": []}])
def test_is_no_prompt(value):
    assert not is_api(value)


TO_USE = ({}, [[1]])  # an output that USE is connected to


@pytest.mark.parametrize(
    "saved, message",
    [
        (None, "The workflow is not what ComfyUI saves there."),
        ({}, "The workflow has no nodes."),
        ({"1": {"class_type": "Use", "inputs": {}}}, "The workflow has no nodes."),
        ({"nodes": [USE, 5]}, r"The workflow.nodes\[1\] is not what ComfyUI saves there."),
        ({"nodes": [{"id": 1}]}, r"The workflow.nodes\[0\] has no type."),
        ({"nodes": [USE], "links": [[1, 2]]}, r"The workflow's links\[0\] has no origin_slot."),
        ({"nodes": [USE]}, "'model' is connected to link 1, which the workflow doesn't have."),
        ({"nodes": [USE], "links": [[1, 9, 0, 2, 0, "MODEL"]]}, "from node 9, which the workflow doesn't have."),
        (workflow(node(3, "Note", [], {}, [[], [1]], mode=4) | {"outputs": []}, USE), "link 1, which"),
        (workflow(node(3, "Reroute", None, {"": 2}, [[1, 2]]), USE), "go round in a circle."),
        (workflow(node(9, SINGLE), subgraphs=[ITSELF]), "go round in a circle."),
        (
            workflow(node(7, "Odd", None, *TO_USE, title="Mine"), USE),
            r"Node 7 \(Mine\) is a 'Odd', .* server doesn't have.$",
        ),
        (
            workflow(node(7, "Odd", None, *TO_USE, properties={"cnr_id": "odd"}), USE),
            "doesn't have: it is of the pack odd.$",
        ),
        (workflow(node(7, "Odd", None, *TO_USE, properties={"aux_id": "me/odd"}), USE), "it is of the pack me/odd.$"),
        (workflow(node(9, SINGLE), subgraphs=[subgraph(SINGLE, [node(3, "Odd", None, *TO_USE)], {}, [])]), "Node 9:3 "),
        (workflow(node(7, "workflow>old", None, *TO_USE), USE), "saved again it is a subgraph.$"),
        (workflow(node(7, "Load3D")), "Node 7 .* sends what only a browser can draw or record."),
    ],
)
def test_refused(saved, message):
    with pytest.raises(ValueError, match=message) as refusal:
        to_api(saved, INFO)
    assert str(refusal.value).count(". ") == 0 and str(refusal.value).endswith(".")


def test_what_some_pack_only_draws_in_the_browser_is_left_out():
    assert to_api(workflow(node(7, "Label (rgthree)")), INFO) == {}
    assert to_api(workflow(node(7, "SetNode", ["model"], {"MODEL": None}, [[]])), INFO) == {}


# Packs as GET /object_info describes them, and what their code in the browser saves beyond that.
SEED, STEPS, TEXT = ["INT", {"default": 0}], ["INT", {"default": 20}], ["STRING", {"forceInput": True}]
PACKS = {
    "Power Lora Loader (rgthree)": {"input": {"required": {}, "optional": {"model": ["MODEL"], "clip": ["CLIP"]}}},
    "Seeded": {"input": {"required": {"seed": SEED, "steps": STEPS}, "optional": {"image": ["IMAGE"]}}},
    "Forced": {"input": {"required": {"text": TEXT, "steps": STEPS}}},
    "Anything Everywhere": {"input": {"optional": {"anything": ["*"]}}},
    "ShowText|pysssss": {"input": {"required": {"text": TEXT}}},
}
PACKS = {kind: {"output": ["MODEL"], "python_module": "custom_nodes.some", **given} for kind, given in PACKS.items()}
POWER = [{}, {"type": "PowerLoraLoaderHeaderWidget"}, {"on": True, "lora": "a.safetensors", "strength": 1}, {}, ""]
ASIDE = subgraph(SINGLE, [node(1, "Seeded", [5, "fixed", 4])], {}, [])
EXPORT = r".* give the file that its File > Export \(API\) writes"


@pytest.mark.parametrize(
    "saved, message",
    [
        (workflow(node(5, "Power Lora Loader (rgthree)", POWER, title="Mine")), r"Node 5 \(Mine\) .*PowerLoraLoaderHeader"),
        (workflow(node(5, "Power Lora Loader (rgthree)", POWER[2:3])), r"Node 5 .* \(\{\"on\": true"),
        (workflow(node(5, "Seeded", [5, "fixed", 4, 0.5])), r"Node 5 \(Seeded\) has saved a value \(0.5\)"),
        (workflow(node(5, "Seeded", [5, "fixed", 4, "an end"])), r'Node 5 .*\("an end"\)'),
        (workflow(node(5, "Seeded", [5, "fixed", 4, False])), r"Node 5 .*\(false\)"),
        (workflow(node(5, "Seeded", ["on top", 5, "fixed", 4])), "Node 5 "),
        (workflow(node(5, "Seeded", [5, 4, 0.5])), r"Node 5 .*\(4\)"),  # the pack has removed control_after_generate
        (workflow(node(5, "Seeded", {"seed": 5, "steps": 4, "crf": 19})), r"Node 5 .*\(19\)"),
        (workflow(node(5, "Seeded", {"seed": 5, "image": {"points": [1]}})), "Node 5 .*points"),
        (
            workflow(node(9, SINGLE, ["shown"], **showing(["1", "own"])), subgraphs=[ASIDE]),
            r'Node 9:1 .*\("shown"\)',
        ),
        (workflow(node(7, "SetNode", ["a"], {"MODEL": 1}), node(2, "Load", ["a"], {}, [[1]])), "Node 7 .* a 'SetNode', "),
        (workflow(node(7, "GetNode", ["a"], *TO_USE), USE), "Node 7 .* a 'GetNode', "),
        (workflow(node(7, "Reroute (rgthree)", None, *TO_USE, properties={"cnr_id": "rgthree-comfy"}), USE), "Node 7 "),
        (workflow(node(7, "Anything Everywhere", None, {"anything": 1}), node(2, "Load", ["a"], {}, [[1]])), "Node 7 "),
        (workflow(node(7, "Seed Everywhere", [1, "fixed"])), "Node 7 "),
        (workflow(node(7, "Load", ["a"], properties={"ue_convert": True})), "Node 7 "),
        (workflow(node(7, "Reroute", None, {"": None}, [[]], properties={"ue_convert": True})), "Node 7 "),
        (workflow(node(7, "Lone", [1]) | {"inputs": [{"name": "a", "link": None, "widget": {"name": "a"}}]}), "Node 7 "),
        (DRAWN, r"Node 1 \(Receive Image \(Vega\)\) .*a.safetensors"),
    ],
)
def test_values_of_a_packs_own_widgets_are_refused(saved, message):
    """What only a pack's code in the browser understands is refused with the way out."""
    known = golden("object_info") | INFO | PACKS
    with pytest.raises(ValueError, match=message + EXPORT) as refusal:
        to_api(saved, known)
    assert str(refusal.value).count(". ") == 0 and str(refusal.value).endswith(".")
    assert to_api(saved | {"nodes": [node | {"mode": 2} for node in saved["nodes"]]}, known) == {}


PREVIEW = {"hidden": False, "paused": False, "params": {"filename": "a.mp4"}}


@pytest.mark.parametrize(
    "values",
    [
        [5, "fixed", 4],
        [5, True, 4],  # from 2023
        [5, "randomize", 4, "image", None, "", [], {}],
        [5, "randomize", 4, "increment", PREVIEW],
        {"seed": 5, "steps": 4, "upload": "image", "videopreview": PREVIEW, "control_after_generate": "fixed"},
        {"seed": 5, "steps": 4, "image": "connected"},
    ],
)
def test_values_that_draw_nothing_are_left_out(values):
    saved = workflow(node(1, "Seeded", values, {"image": 1}), node(2, "Load", ["a"], {}, [[1]]))
    assert to_api(saved, INFO | PACKS)["1"]["inputs"] == {"seed": 5, "steps": 4, "image": ["2", 0]}


@pytest.mark.parametrize("values", [[4], ["an old text", 4], {"text": "an old text", "steps": 4}])
def test_values_from_before_an_input_was_forced_are_left_out(values):
    assert to_api(workflow(node(1, "Forced", values)), PACKS)["1"]["inputs"] == {"steps": 4}


def test_the_text_that_a_node_has_shown_is_left_out():
    assert to_api(workflow(node(1, "ShowText|pysssss", ["one", "two"])), PACKS)["1"]["inputs"] == {}


def places(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def test_anything_else_is_a_value_error():
    """Whatever is put in the place of any part of a workflow."""
    info = golden("object_info")
    draw = random.Random(0)
    refused = 0
    for saved in HANDMADE.values():
        everywhere = [path for path in places(saved) if path]
        for path in draw.sample(everywhere, min(100, len(everywhere))):
            broken = copy.deepcopy(saved)
            inner = broken
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = draw.choice([None, -1, 10**6, "x", [], {}, 1.5, [[]], [None], {"a": 1}, "-10", -10])
            try:
                to_api(broken, info)
            except ValueError:
                refused += 1
    assert refused > 500
