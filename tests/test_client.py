"""The Python client on the running server: pictures, callbacks, any workflow, and connections that break."""

import asyncio
import contextlib
import gc
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import graphs
import pytest
import relay
import requests
from PIL import Image, ImageChops

from dev import comfyui

ROOT = Path(__file__).resolve().parents[1]

from vega_client import AsyncClient, Client, RequestError, WorkflowError, retry  # noqa: E402
from vega_client.images import image_paths  # noqa: E402

PROMPT = "night, desert, full moon"
LONG = {"model": "segmind-vega", "steps": 60}


@pytest.fixture
def vega(server):
    with Client(server.url) as client:
        yield client


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and not ImageChops.difference(one, other).getbbox()


def graph(seed: int, **changes) -> dict:
    """The shipped graph, its picture sent instead of saved."""
    prompt = graphs.text_to_image(VegaLCMSampler__seed=seed, **changes)
    prompt[graphs.SAVE] = graphs.sending(graphs.DECODE, "png")
    return prompt


def test_generate_draws_what_the_api_answers(server, vega):
    image = vega.generate(PROMPT, seed=3, steps=2, width=64, height=96, format="png")
    body = {"prompt": PROMPT, "seed": 3, "num_inference_steps": 2, "img_width": 64, "img_height": 96, "format": "png"}
    answer = requests.post(f"{server.url}/v1/segmind-vega-rt-v1", json=body)
    assert same(image, Image.open(io.BytesIO(answer.content)))
    assert image.size == (64, 96)
    assert image.info["seed"] == 3
    drawn = vega.generate(PROMPT, format="png")
    assert same(vega.generate(PROMPT, seed=drawn.info["seed"], format="png"), drawn)


def test_image_to_image_and_the_base_model(vega):
    source = vega.generate(PROMPT, seed=3)
    assert vega.generate("snow", image=source, denoise=0.4).size == source.size
    assert vega.generate("snow", model="segmind-vega", steps=3, negative_prompt="sea", guidance_scale=2).size == source.size


def test_callbacks_are_told_of_every_step_and_shown_previews(vega):
    steps, previews = [], []
    plain = vega.generate(PROMPT, seed=3, steps=4)
    image = vega.generate(PROMPT, seed=4, steps=4, on_progress=lambda *step: steps.append(step), on_preview=previews.append)
    assert steps == [(k, 4) for k in range(1, 5)]
    assert len(previews) == 4
    assert all(preview.size == image.size for preview in previews)
    assert not same(plain, image)


def test_a_refusal_is_an_error_with_the_servers_words(vega):
    with pytest.raises(RequestError, match="multiple of 8") as error:
        vega.generate(PROMPT, width=65)
    assert (error.value.status, error.value.field) == (400, "img_width")


def test_queue_draws_a_workflow_with_other_values(server, vega, tmp_path):
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(graph(1)), encoding="utf-8")
    expected = vega.generate(PROMPT, seed=9, format="png")
    changes = {"VegaLCMSampler.seed": 9, f"{graphs.TEXT}.text": PROMPT}
    for workflow in (file, str(file), file.read_text(), json.loads(file.read_text())):
        (image,) = vega.queue(workflow, changes)
        assert same(image, expected)


def test_queue_takes_the_browsers_own_format(vega):
    path = ROOT / "workflows" / "vega_txt2img.json"
    steps = []
    (image,) = vega.queue(path, {"VegaLCMSampler.seed": 9}, on_progress=lambda *step: steps.append(step))
    (expected,) = vega.queue(ROOT / "workflows" / "api" / "vega_txt2img.json", {"VegaLCMSampler.seed": 9})
    assert same(image, expected)
    assert "workflow" in image.info
    assert steps


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_files_as_windows_writes_them_are_read(vega, tmp_path, encoding):
    """utf-8-sig is its editors'; PowerShell's > writes utf-16."""
    prompt = "Wüste, 月, 🌕"
    expected = vega.generate(prompt, seed=4, format="png")
    text = json.dumps(graph(4, CLIPTextEncode__text=prompt), ensure_ascii=False)
    file = tmp_path / "graph.json"
    file.write_bytes(text.encode(encoding))
    for given in (file, str(file), f"\ufeff{text}"):
        assert same(*vega.queue(given), expected)


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
def test_a_file_that_is_no_workflow_is_one_sentence(vega, tmp_path, content, said):
    file = tmp_path / "flow.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    for given in (file, str(file)):
        one_sentence(vega, given, said)


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
def test_a_text_that_is_no_workflow_is_one_sentence(vega, given, said):
    one_sentence(vega, given, said)


def one_sentence(vega, given: str | Path, said: str) -> None:
    with pytest.raises((ValueError, OSError), match=said) as error:
        vega.queue(given)
    assert not isinstance(error.value, (UnicodeError, json.JSONDecodeError))
    assert str(error.value).endswith(".") and str(error.value).count(". ") == 0
    assert len(str(error.value)) < 300


def test_the_body_of_post_prompt_is_drawn_as_it_is(vega):
    """With the workflow that it has for the pictures, and no more than the nodes it asks for."""
    expected = vega.generate(PROMPT, seed=9, format="png")
    prompt = graph(9, CLIPTextEncode__text=PROMPT)
    prompt["8"] = prompt[graphs.SAVE]
    extra = {"extra_pnginfo": {"workflow": {"nodes": []}}}
    body = {"client_id": "another", "prompt": prompt, "extra_data": extra, "partial_execution_targets": ["8"]}
    (image,) = vega.queue(body)
    assert same(image, expected)
    assert json.loads(image.info["workflow"]) == {"nodes": []}
    (plain, other) = vega.queue(json.dumps({"prompt": graph(1) | {"8": prompt["8"]}}), changes(prompt))
    assert same(plain, expected) and same(other, expected)
    assert "workflow" not in plain.info


def changes(prompt: dict) -> dict:
    return {"VegaLCMSampler.seed": 9, f"{graphs.TEXT}.text": prompt[graphs.TEXT]["inputs"]["text"]}


def test_what_a_packs_code_in_the_browser_saved_is_refused(vega):
    """Nothing of it is drawn: the server knows nothing of the value."""
    saved = json.loads((ROOT / "workflows" / "vega_txt2img.json").read_text(encoding="utf-8"))
    (sampler,) = [node for node in saved["nodes"] if node["type"] == "VegaLCMSampler"]
    sampler["widgets_values"].append({"on": True, "lora": "a.safetensors"})
    with pytest.raises(ValueError, match=rf"Node {sampler['id']} .*a\.safetensors.*File > Export \(API\)"):
        vega.queue(saved)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"KSampler.seed": 1}, r"No input is called KSampler\.seed; there are .*5\.seed"),
        ({"VegaLCMSampler.sed": 1}, "No input is called"),
        ({"CLIPTextEncode.text": 1}, r"fits the nodes 3, 33: name one by its id, as in 3\.text"),
    ],
)
def test_an_override_that_fits_nothing_or_several_is_refused(vega, changes, said):
    prompt = graph(1)
    prompt["33"] = prompt[graphs.TEXT]
    with pytest.raises(ValueError, match=said):
        vega.queue(prompt, changes)


def test_what_the_server_refuses_and_what_fails_is_told(vega):
    with pytest.raises(RequestError, match="node 5.*steps"):
        vega.queue(graph(1, VegaLCMSampler__steps=0))
    with pytest.raises(WorkflowError, match="VegaLCMSampler.*at most") as error:
        vega.queue(graph(1, VegaLCMSampler__steps=20, VegaLCMSampler__denoise=0.2))
    assert error.value.node_id == graphs.SAMPLER


def test_asynchronous_and_many_at_once(server):
    async def draw():
        async with AsyncClient(server.url) as client:
            drawn = [client.generate(f"{PROMPT}, {k} stars", seed=k, format="png") for k in range(4)]
            queued = [client.queue(graph(k, CLIPTextEncode__text=f"{PROMPT}, {k} stars")) for k in range(4)]
            return await asyncio.gather(*drawn, *queued)

    images = asyncio.run(draw())
    for one, (other,) in zip(images[:4], images[4:], strict=True):
        assert same(one, other)


def test_giving_up_takes_the_work_off_the_server(server):
    async def draw():
        async with AsyncClient(server.url) as client:
            works = [client.generate(PROMPT, seed=1, **LONG), client.queue(graph(5, VegaLCMSampler__steps=50))]
            tasks = [asyncio.create_task(work) for work in works]
            while len(queued(server)) < 2:
                await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(draw())
    end = time.monotonic() + 10
    while queued(server):
        assert time.monotonic() < end
        time.sleep(0.05)


def queued(server) -> list:
    found = server.get("/queue").json()
    return found["queue_running"] + found["queue_pending"]


def test_connections_that_break_lose_nothing(server):
    """Cut at every stage: in the queue, while drawing, and over and over."""
    graphs_cut = [graph(seed, VegaLCMSampler__steps=30) for seed in (11, 12)]
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        client.queue(graph(10))
        cut, drawn = [], []
        for workflow in graphs_cut:
            thread = threading.Thread(target=lambda workflow=workflow: drawn.extend(client.queue(workflow)))
            thread.start()
            for _ in range(5):
                time.sleep(0.3)
                cut.append(network.cut())
            thread.join(60)
        assert sum(cut) >= 4
        assert client.generate(PROMPT, seed=2).size == (128, 128)
    server.free()  # what it has drawn, it has not kept
    with Client(server.url) as client:
        for workflow, image in zip(graphs_cut, drawn, strict=True):
            assert same(*client.queue(workflow), image)


@pytest.mark.server
@pytest.mark.soak
def test_a_server_that_dies_and_comes_back_draws_it_after_all(tmp_path, caplog):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(comfyui.serve(tmp_path / "first"))
        network = stack.enter_context(relay.to(first.port))
        client = stack.enter_context(Client(f"http://127.0.0.1:{network.port}"))
        found = []
        thread = threading.Thread(target=lambda: found.extend(client.queue(graph(7, VegaLCMSampler__steps=50))))
        thread.start()
        while not queued(first):
            time.sleep(0.02)
        first.process.kill()
        network.target = stack.enter_context(comfyui.serve(tmp_path / "second")).port
        thread.join(60)
        (again,) = client.queue(graph(7, VegaLCMSampler__steps=50))
        assert same(found[0], again)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]  # "Task was destroyed" and the like


def test_no_server_is_one_sentence(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_RESPONSE_SECONDS", 2.0)
    nobody = f"http://127.0.0.1:{comfyui.free_port()}"
    with Client(nobody) as client, pytest.raises(ConnectionError, match="Nothing answers at"):
        client.queue({"1": {"class_type": "PreviewImage", "inputs": {}}})


def test_a_program_that_forgets_to_close_ends(server):
    """A program ends that forgets to close its client, or that has a wrong address."""
    for call, code in ((f"Client({server.url!r}).generate('snow')", 0), ("Client('127.0.0.1:8188')", 1)):
        program = f"from vega_client import Client; {call}"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stderr


def test_a_picture_in_memory_and_folder_is_fetched_once():
    """A picture that is in memory and in a folder is fetched once.

    Send Image tells both to clients that it doesn't know, as where this one's websocket has just broken.
    """
    file = {"filename": "vega_a.png", "subfolder": "", "type": "temp"}
    assert image_paths({"7": {"sent": [{"url": "/vega/sent/a"}], "images": [file]}}) == ["/vega/sent/a"]
    view = "/view?filename=vega_a.png&subfolder=&type=temp"
    assert image_paths({"7": {"sent": [], "images": [file]}, "8": {"images": [file]}}) == [view, view]
