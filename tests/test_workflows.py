"""The shipped workflows: against the nodes' definitions, against their API twins, and against the running server."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psnr import psnr
from vega_pack.nodes import model_lists
from vega_pack.nodes.train_lora import VegaTrainLora
from workflow_files import (
    FIRST_NAMES,
    WORKFLOWS,
    every,
    for_programs,
    linked,
    needed,
    nodes,
    note,
    read,
    ready,
    subgraphs,
    template,
    widgets,
)

from dev import templates, thumbnails
from vega_client import Client
from vega_client.workflow import to_api

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"VegaLoader": "checkpoints", "VegaLCMLora": "loras", "VegaLoraLoader": "loras", "ControlNetLoader": "controlnet"}
AFTER = ("fixed", "increment", "decrement", "randomize")


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


SENDERS = ("SaveImage", "VegaSendImage", "PreviewImage")


def drawn_by(prompt: dict, source: list) -> tuple:
    """What an output is made of, without the ids of nodes; a person's picture and mask count as themselves."""
    node = prompt[source[0]]
    if node["class_type"] in ("LoadImage", "VegaReceiveImage"):
        return ("own", ("IMAGE", "MASK")[source[1]])
    given = {k: drawn_by(prompt, v) if isinstance(v, list) else v for k, v in node["inputs"].items()}
    return (node["class_type"], source[1], *sorted(given.items(), key=lambda item: item[0]))


@every
def test_the_twin_is_the_same_graph(path, info):
    """What a program sends is made of the same as what the browser sends, except for where a person's picture is."""
    found = []
    for prompt in (to_api(read(path), info), for_programs(path)):
        last = [n["inputs"]["images"] for n in prompt.values() if n["class_type"] in SENDERS[:2]]
        found.append(sorted(repr(drawn_by(prompt, source)) for source in last))
    assert found[0] == found[1]
    assert found[0]


@every
def test_every_node_is_known_and_its_values_are_valid(path, info):
    workflow = read(path)
    assert workflow["version"] == 0.4
    for node in nodes(workflow):
        values = iter(node["widgets_values"])
        for name, kind, options in widgets(info[node["type"]]):
            value = next(values)
            where = f"{node['type']}.{name} = {value!r}"
            comes_over_a_link = value == "" and (node["type"], name) in linked(path)
            assert comes_over_a_link or takes(kind, options, value) or (node, value) in needed(workflow), where
            if options.get("control_after_generate"):
                assert next(values) in AFTER  # the frontend's own widget
            if options.get("image_upload"):
                assert next(values) == "image"  # its button
        assert next(values, None) is None, f"{node['type']} saves more values than it has widgets"
        assert node["properties"]["Node name for S&R"] == node["type"]


@every
def test_every_input_is_connected(path, info):
    """Each socket that must be connected is, in what the browser sends."""
    for node in to_api(read(path), info).values():
        definition = info[node["class_type"]]
        given = {name.partition(".")[0] for name in node["inputs"]}
        assert definition["input"].get("required", {}).keys() <= given, node["class_type"]


@every
def test_a_subgraph_shows_what_people_change(path):
    """Prompt, model and seed are on the face of each; the first template's seed is another one after each run.

    So is the LCM-LoRA, unless it is made beside it, and comes over a link.
    """
    workflow = read(path)
    shown = [entry["name"] for subgraph in subgraphs(workflow) for entry in subgraph["inputs"]]
    lcm_lora = "lora name" if ("VegaLCMLora", "lora_name") in linked(path) else "lcm_lora"
    for name in ("prompt", "model", "seed", lcm_lora):
        assert shown.count(name) == len(subgraphs(workflow))
    after = {node["widgets_values"][1] for node in nodes(workflow) if node["type"] == "VegaLCMSampler"}
    assert after == {"randomize" if FIRST_NAMES[path.stem].startswith("vega_txt2img") else "fixed"}


@every
def test_the_app_view_has_what_people_change_and_get(path):
    """extra.linearData: what the frontend's App view shows (appModeStore.ts)."""
    workflow = read(path)
    top = {str(node["id"]): node for node in workflow["nodes"]}
    linear = workflow["extra"]["linearData"]
    shown = [name for _, name in linear["inputs"]]
    assert {"prompt", "seed"} <= set(shown)
    for id, name in linear["inputs"]:
        assert name in [entry["name"] for entry in top[id]["inputs"]], "the node has such a widget"
    assert {top[id]["type"] for id in linear["outputs"]} <= {"SaveImage", "VegaSendImage"}
    assert linear["outputs"]


@every
def test_a_note_says_what_to_do(path):
    text = note(read(path))
    assert text.startswith("## ")
    assert 40 < len(text.split()) < 250
    assert "{" not in text


def test_the_note_names_what_a_model_of_your_own_needs():
    """Each number and switch that the template sets for its small model, and that is another by default."""
    prompt = read(ROOT / "workflows" / "api" / "vega_train_lora.json").values()
    (given,) = [node["inputs"] for node in prompt if node["class_type"] == "VegaTrainLora"]
    default = {each.id: each.default for each in VegaTrainLora.GET_SCHEMA().inputs if hasattr(each, "default")}
    changed = {name for name, value in given.items() if isinstance(value, int | float) and value != default[name]}
    assert "gradient_checkpointing" in changed
    text = note(template("vega_train_lora"))
    assert [name for name in sorted(changed) if f"*{name.replace('_', ' ')}*" not in text] == []


@every
def test_a_few_step_model_is_accelerated(path):
    """A few-step model is accelerated, right before its sampler."""
    prompt = for_programs(path)
    samplers = [node for node in prompt.values() if node["class_type"] == "VegaLCMSampler"]
    assert samplers
    for node in samplers:
        source = prompt[node["inputs"]["model"][0]]
        assert (source["class_type"], source["inputs"]["mode"]) == ("VegaAccelerate", "auto")


@every
def test_models_that_are_not_shipped_say_where_they_are(path):
    """As ComfyUI's frontend wants it (missingModelScan.ts, missingModelDownload.ts). It knows no folders: the note does."""
    workflow = read(path)
    text = note(workflow)
    for node, name in needed(workflow):
        if name.endswith("/"):
            assert f"https://huggingface.co/segmind/{name.strip('/')}/" in text
            continue
        (model,) = node["properties"]["models"]
        assert model["name"] == name
        assert model["directory"] == FOLDERS[node["type"]]
        assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w.-]+\.safetensors", model["url"])
        assert f"[{name}]({model['url']})" in text
        saved_as = model["url"].rpartition("/")[2]
        assert name == saved_as or f"saved by browsers as {saved_as}" in text
    offered = [node for node in nodes(workflow) if node["properties"].get("models")]
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


@every
def test_a_template_is_still_found_by_its_first_name(path, server):
    """People have linked to ?template=vega_txt2img: the frontend fetches the file of that name."""
    served = server.get(f"/api/workflow_templates/{ROOT.name}/{FIRST_NAMES[path.stem]}.json")
    assert served.json() == read(path)


@ready
def test_the_thumbnail_is_what_the_workflow_draws(path, server):
    with Client(server.url) as client:
        drawn = thumbnails.draw_picture(client, for_programs(path))
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


def test_the_compared_recipes_draw_four_pictures(server):
    """The template's graph on vega-nano: four models through one sampler, each by its own recipe."""
    prompt = read(ROOT / "workflows" / "api" / "vega_recipes_compared.json")
    recipes = iter(("LCM", "SDXL-Lightning", "Hyper-SD", "DMD2"))
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "VegaLoader":
            inputs |= {"model_name": model_lists.EMBEDDED_MODEL, "vae": "tiny"}
        elif node["class_type"] == "VegaLCMLora":
            inputs |= {"lora_name": model_lists.EMBEDDED_LORA, "recipe": next(recipes)}
        elif node["class_type"] == "EmptyLatentImage":
            inputs |= {"width": 128, "height": 128}
        elif node["class_type"] == "VAEDecode":
            node["class_type"] = "VegaTinyVAEDecode"
    with Client(server.url) as client:
        (grid,) = client.queue(prompt)
    cells = [np.asarray(grid.crop((x, y, x + 384, y + 384)), dtype=float) for x in (0, 388) for y in (0, 388)]
    assert all(psnr(one, other) < 30 for k, one in enumerate(cells) for other in cells[:k])
