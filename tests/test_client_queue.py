"""The Python client's queue(): workflows as files, texts and dicts, overrides, and what is no workflow."""

import json
from pathlib import Path

import graphs
import pytest
from client_graphs import PROMPT, graph, same

from vega_client import RequestError, WorkflowError

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"width": 128, "height": 128}  # of graphs.py


def test_queue_draws_a_workflow_with_other_values(server, python_client, tmp_path):
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(graph(1)), encoding="utf-8")
    expected = python_client.generate(PROMPT, seed=9, format="png", **SIDES)
    changes = {"VegaLCMSampler.seed": 9, f"{graphs.TEXT}.text": PROMPT}
    for workflow in (file, str(file), file.read_text(), json.loads(file.read_text())):
        (image,) = python_client.queue(workflow, changes)
        assert same(image, expected)


def test_queue_takes_the_browsers_own_format(python_client):
    path = ROOT / "workflows" / "01 Text to picture.json"
    steps = []
    (image,) = python_client.queue(path, {"VegaLCMSampler.seed": 9}, on_progress=lambda *step: steps.append(step))
    (expected,) = python_client.queue(ROOT / "workflows" / "api" / "vega_txt2img.json", {"VegaLCMSampler.seed": 9})
    assert same(image, expected)
    assert "workflow" in image.info
    assert steps


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", *(pytest.param(one, marks=pytest.mark.soak) for one in ("utf-16-le", "utf-16-be", "utf-32"))],
)
def test_files_as_windows_writes_them_are_read(python_client, tmp_path, encoding):
    """utf-8-sig is its editors'; PowerShell's > writes utf-16."""
    prompt = "Wüste, 月, 🌕"
    expected = python_client.generate(prompt, seed=4, format="png", **SIDES)
    text = json.dumps(graph(4, CLIPTextEncode__text=prompt), ensure_ascii=False)
    file = tmp_path / "graph.json"
    file.write_bytes(text.encode(encoding))
    for given in (file, str(file), f"\ufeff{text}"):
        assert same(*python_client.queue(given), expected)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"flow\.json is empty"),
        ("\ufeff \n".encode("utf-16"), r"flow\.json is empty"),
        ('{"1": {"class_type": "é"}}'.encode("latin-1"), r"flow\.json is no text in UTF-8"),
        ('{"ü'.encode("utf-16")[:-1], r"flow\.json is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n", r"flow\.json is no text in UTF-8"),
        (b'{"1": \n {]', r"flow\.json is no JSON: .* at line 2, column 3"),
        (b"[1, 2]", r"flow\.json is no workflow: its JSON holds no object"),
        (b'{"1": {"class_type": "A", "inputs": {"cfg": NaN}}}', r"flow\.json holds NaN"),
        (b"5", r"flow\.json is no workflow: its JSON holds no object"),
        (b"[" * 100_000, r"flow\.json is no workflow: its JSON is nested too deep"),
        (b'{"a": {"b": 1}}', "The workflow has no nodes"),
        (b'{"prompt": {"b": 1}}', "The workflow has no nodes"),
        (b'{"1": {"class_type": 5}}', r"Node 1\.class_type is not what ComfyUI saves there"),
        (b'{"1": {"class_type": "A", "inputs": 5}}', r"Node 1\.inputs is not what ComfyUI saves there"),
        (None, r"flow\.json' is a folder"),
    ],
)
def test_a_file_that_is_no_workflow_is_one_sentence(python_client, tmp_path, content, said):
    file = tmp_path / "flow.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    for given in (file, str(file)):
        one_sentence(python_client, given, said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a pink dawn", "'a pink dawn' is neither a file nor the JSON of a workflow"),
        (Path("nowhere.json"), r"'nowhere\.json' is neither"),
        ("a pink dawn, " * 1000, "is neither a file"),
        ("zero\0byte", "is neither a file"),
        ("[1]", "is neither a file"),
        ("", "is neither a file"),
        (str(Path(__file__) / "under a file"), "is neither a file"),
        ('{"1": 5', "The text is no JSON: .* at line 1, column 8"),
        ("\ufeff{", "The text is no JSON"),
        (Path(), r"'\.' is a folder"),
    ],
)
def test_a_text_that_is_no_workflow_is_one_sentence(python_client, given, said):
    one_sentence(python_client, given, said)


def one_sentence(python_client, given: str | Path, said: str) -> None:
    with pytest.raises((ValueError, OSError), match=said) as error:
        python_client.queue(given)
    assert not isinstance(error.value, (UnicodeError, json.JSONDecodeError))
    assert str(error.value).endswith(".") and str(error.value).count(". ") == 0
    assert len(str(error.value)) < 300


def test_the_body_of_post_prompt_is_drawn_as_it_is(python_client):
    """With the workflow that it has for the pictures, and no more than the nodes it asks for."""
    expected = python_client.generate(PROMPT, seed=9, format="png", **SIDES)
    prompt = graph(9, CLIPTextEncode__text=PROMPT)
    prompt["8"] = prompt[graphs.SAVE]
    extra = {"extra_pnginfo": {"workflow": {"nodes": []}}}
    body = {"client_id": "another", "prompt": prompt, "extra_data": extra, "partial_execution_targets": ["8"]}
    (image,) = python_client.queue(body)
    assert same(image, expected)
    assert json.loads(image.info["workflow"]) == {"nodes": []}
    (plain, other) = python_client.queue(json.dumps({"prompt": graph(1) | {"8": prompt["8"]}}), changes(prompt))
    assert same(plain, expected) and same(other, expected)
    assert "workflow" not in plain.info


def changes(prompt: dict) -> dict:
    return {"VegaLCMSampler.seed": 9, f"{graphs.TEXT}.text": prompt[graphs.TEXT]["inputs"]["text"]}


def test_what_a_packs_code_in_the_browser_saved_is_refused(python_client):
    """Nothing of it is drawn: the server knows nothing of the value."""
    saved = json.loads((ROOT / "workflows" / "01 Text to picture.json").read_text(encoding="utf-8"))
    inside = saved["definitions"]["subgraphs"][0]["nodes"]
    (sampler,) = [node for node in inside if node["type"] == "VegaLCMSampler"]
    sampler["widgets_values"].append({"on": True, "lora": "a.safetensors"})
    with pytest.raises(ValueError, match=rf"Node 101:{sampler['id']} .*a\.safetensors.*File > Export \(API\)"):
        python_client.queue(saved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"KSampler.seed": 1}, r"No input is called KSampler\.seed; there are .*5\.seed"),
        ({"VegaLCMSampler.sed": 1}, "No input is called"),
        ({"CLIPTextEncode.text": 1}, r"fits the nodes 3, 33: name one by its id, as in 3\.text"),
    ],
)
def test_an_override_that_fits_nothing_or_several_is_refused(python_client, changes, said):
    prompt = graph(1)
    prompt["33"] = prompt[graphs.TEXT]
    with pytest.raises(ValueError, match=said):
        python_client.queue(prompt, changes)


def test_what_the_server_refuses_and_what_fails_is_told(python_client):
    with pytest.raises(RequestError, match="node 5.*steps"):
        python_client.queue(graph(1, VegaLCMSampler__steps=0))
    with pytest.raises(WorkflowError, match="VegaLCMSampler.*at most") as error:
        python_client.queue(graph(1, VegaLCMSampler__steps=20, VegaLCMSampler__denoise=0.2))
    assert error.value.node_id == graphs.SAMPLER
