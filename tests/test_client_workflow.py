"""The client's converter against the frontend itself, which loads each workflow in Chromium and says what it would queue.

make soak asks the frontend, and records its answers in tests/golden; make test compares with what is recorded there.
"""

import copy
import json
import random
from datetime import datetime
from pathlib import Path

import pytest
from saved_workflows import (
    DRAWN,
    GOLDEN,
    HANDMADE,
    LORAS,
    NAMED,
    RECORDED,
    SAMPLE,
    SHIPPED,
    all_kinds,
    golden,
    graphs,
    shipped,
    template,
    templates,
)

from dev import comfyui
from vega_client.workflow import is_api, prompt, text_replacements, to_api
from vega_client.workflow.definitions import AUTOGROW, DYNAMIC_COMBO

ROOT = Path(__file__).resolve().parents[1]
# The nodes whose titles the frontend has in its own English texts, where the server says something else.
TRANSLATED = {"LTXVConcatAVLatent", "LTXVSeparateAVLatent", "PrimitiveString", "PrimitiveStringMultiline"}
ASK = """async workflow => {
    await window.app.loadGraphData(workflow)
    for (let frames = 0; frames < 2; frames++) await new Promise(requestAnimationFrame)
    return JSON.stringify((await window.app.graphToPrompt()).output)
}"""
# What a pack's code in the browser does that draws a widget of its own.
DRAWS = """window.app.registerExtension({
    name: 'draws',
    nodeCreated(node) {
        if (node.comfyClass === 'VegaReceiveImage') {
            node.addCustomWidget({ name: 'loras', type: 'custom', value: [], options: {}, draw() {}, y: 0 })
        }
    }
})"""
# What the packs do whose nodes save their values by name.
BY_NAME = """window.app.registerExtension({
    name: 'by name',
    nodeCreated(node) {
        node.onConfigure = function ({ widgets_values: saved }) {
            for (const widget of this.widgets ?? []) if (widget.name in (saved ?? {})) widget.value = saved[widget.name]
        }
    }
})"""


def keep(name: str, answers: dict, wanted: set[str]) -> None:
    """Writes one line for each that is wanted: what was found, or what is there already."""
    kept = {key: value for key, value in sorted({**golden(name), **answers}.items()) if key in wanted}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items()]
    (GOLDEN / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def excerpt(node: dict) -> dict:
    """What the converter reads of a node's definition: of lists of files and the like the first, of modules the folder."""
    kept = {"input": shorter(node["input"]), "output": node["output"], "display_name": node["display_name"]}
    return kept | {"input_order": node.get("input_order"), "python_module": node["python_module"].split(".")[0]}


def shorter(inputs: dict) -> dict:
    groups = {group: inputs[group] for group in ("required", "optional") if inputs.get(group)}
    return {group: {name: short(*given) for name, given in found.items()} for group, found in groups.items()}


def short(kind: str | list, options: dict | None = None) -> list:
    kept = {key: value for key, value in (options or {}).items() if key != "tooltip"}
    if kind == AUTOGROW:
        kept["template"] = kept["template"] | {"input": shorter(kept["template"]["input"])}
    if kind == DYNAMIC_COMBO:
        kept["options"] = [option | {"inputs": shorter(option["inputs"])} for option in kept["options"]]
    elif "options" in kept:
        kept["options"] = kept["options"][:1]
    return [kind[:1] if isinstance(kind, list) else kind, kept]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One of its own, whose lists of files are as long as at the last time."""
    with comfyui.serve(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="module")
def info(page, server):
    """GET /object_info with the frontend's titles."""
    info = server.get("/object_info").json()
    titles = page.evaluate(
        "Object.fromEntries(Object.entries(LiteGraph.registered_node_types).map(([kind, node]) => [kind, node.title]))"
    )
    assert {kind for kind, node in info.items() if titles[kind] != (node["display_name"] or kind)} == TRANSLATED
    return {kind: node | {"display_name": titles[kind]} for kind, node in info.items()}


class Clock:
    now = staticmethod(lambda: datetime(2026, 3, 4, 5, 6, 7))


@pytest.fixture
def settled(monkeypatch):
    """Of alternatives the converter takes the first, and it is always the same second."""
    monkeypatch.setattr(text_replacements.random, "choice", lambda options: options[0])
    monkeypatch.setattr(text_replacements, "datetime", Clock)


@pytest.fixture(scope="module")
def record(info):
    """What the frontend answers, as (group, name) -> prompt, of all that is to be recorded."""
    answers: dict[tuple[str, str], dict] = {}
    yield answers
    for group, workflows in RECORDED.items():
        keep(group, {name: answer for (of, name), answer in answers.items() if of == group}, set(workflows))
    kinds = {kind for workflows in RECORDED.values() for load in workflows.values() for kind in all_kinds(load())}
    keep("object_info", {kind: excerpt(info[kind]) for kind in kinds & info.keys()}, kinds)


@pytest.fixture
def agree(page, info, settled, record):
    """A function that fails where the converter and the frontend differ; of alternatives both take the first."""
    page.evaluate("Math.random = () => 0")
    page.clock.set_fixed_time(Clock.now())

    def agree(workflow: dict, *recorded: str) -> None:
        before = copy.deepcopy(workflow)
        answer = json.loads(page.evaluate(ASK, workflow))
        if recorded:
            record[recorded] = answer
        prompt = to_api(workflow, info)
        assert workflow == before
        assert is_api(prompt) == bool(prompt)  # nothing is left of a graph whose nodes are all muted
        assert not is_api(workflow)
        assert prompt == answer

    return agree


def known(info: dict) -> dict[str, dict]:
    """The templates all of whose nodes the server has."""
    found = {}
    for name, path in templates().items():
        workflow = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(workflow, dict) or "nodes" not in workflow:
            continue
        if all_kinds(workflow) <= {*info, *prompt.VIRTUAL_NODES, *(graph.get("id") for graph in graphs(workflow))}:
            found[name] = workflow
    return found


@pytest.mark.soak
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped(agree, path):
    agree(shipped(path), "shipped", path.stem)


@pytest.mark.soak
@pytest.mark.parametrize("name", SAMPLE)
def test_a_template(agree, name):
    agree(template(name), "templates", name)


@pytest.mark.soak
def test_every_template_of_known_nodes(agree, info, record_property):
    workflows = known(info)
    record_property("templates", len(workflows))
    for name, workflow in workflows.items():
        print(name)
        agree(workflow)


@pytest.mark.soak
def test_templates_with_nodes_muted_and_bypassed_at_random(agree, info, record_property):
    count = 0
    for name, workflow in known(info).items():
        print(name)
        draw = random.Random(name)
        for node in (node for graph in graphs(workflow) for node in graph["nodes"]):
            # Record Audio asks for a microphone where it isn't bypassed.
            node["mode"] = 4 if node["type"] == "RecordAudio" else draw.choices((0, 4, 2), (80, 15, 5))[0]
        agree(workflow)
        count += 1
    record_property("templates", count)


@pytest.mark.soak
@pytest.mark.parametrize("name", HANDMADE)
def test_handmade(agree, name):
    agree(HANDMADE[name], "handmade", name)


@pytest.mark.soak
def test_values_by_name(agree, page):
    """As the packs read them that save them so; the frontend alone can't."""
    page.evaluate(BY_NAME)
    agree(NAMED, "by_packs", "by name")


@pytest.mark.soak
def test_a_widget_that_a_pack_draws(page, record):
    """The frontend sends its value; /object_info doesn't say under which name."""
    page.evaluate(DRAWS)
    answer = json.loads(page.evaluate(ASK, DRAWN))
    record["by_packs", "drawn"] = answer
    assert answer["1"]["inputs"]["loras"] == {"__value__": LORAS}


@pytest.mark.parametrize("group, name", [(group, name) for group in RECORDED for name in RECORDED[group] if name != "drawn"])
def test_the_frontends_recorded_answer(settled, group, name):
    """make soak, which asks the frontend, writes tests/golden."""
    assert to_api(RECORDED[group][name](), golden("object_info")) == golden(group)[name]
