"""Train LoRA (Vega) on the real server: it trains, shows how far it is, goes on after Interrupt, refuses in a sentence."""

import os
import subprocess
import sys
from pathlib import Path

import graphs
import psutil
import pytest
import training_runs as runs
from vega_pack.nodes import model_lists, train_lora, training_folders, training_process
from vega_pack.vega import file_names

from dev import comfyui
from train.__main__ import parser

FOLDER, STEPS = "sets/lakes at night", 20
SETTINGS = {"learning_rate": 1e-3, "rank": 2, "resolution": 64, "seed": 0, "batch_size": 2}
SETTINGS |= {"gradient_accumulation_steps": 1, "gradient_checkpointing": False, "steps": STEPS}


def graph(name: str, /, **inputs) -> dict:
    given = {"model_name": model_lists.EMBEDDED_MODEL, "folder": FOLDER, "name": name, **SETTINGS, **inputs}
    return {"1": {"class_type": "VegaTrainLora", "inputs": given}}


def refused(client, prompt: dict) -> str:
    """The sentence that the server answers with, or that the node ends with."""
    with pytest.raises(comfyui.PromptError) as raised:
        client.run(prompt)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def file(server, name: str) -> Path:
    return server.base / "models" / "loras" / f"{name}.safetensors"


def saved(work: Path, name: str) -> int:
    """The step that a run would go on from."""
    return int((work / name / "training" / "latest").read_text())


@pytest.fixture(scope="module")
def work(server):
    return server.base / "user" / "__vega" / "training"


@pytest.fixture(scope="module")
def events(server):
    """All that the server told while it trained `whole` and drew with it, by core's Load LoRA and by ours."""
    runs.pictures(server.base / "input" / FOLDER)
    prompt = graphs.text_to_image(VegaLCMSampler__steps=1)
    loaded = {
        "model": [graphs.LOADER, 0],
        "clip": [graphs.LOADER, 1],
        "lora_name": ["train", 0],
        "strength_model": 1.0,
        "strength_clip": 1.0,
    }
    prompt["core"] = {"class_type": "LoraLoader", "inputs": loaded}
    prompt["ours"] = {"class_type": "VegaLoraLoader", "inputs": {**loaded, "model": ["core", 0], "clip": ["core", 1]}}
    prompt[graphs.LORA]["inputs"]["model"] = ["ours", 0]
    prompt["train"] = graph("whole", sample_prompts="\na lake")["1"]
    with server.connect() as client:
        told = list(client.events(client.queue(prompt)))
    assert psutil.Process(server.process.pid).children(recursive=True) == [], "the process that trained is gone"
    return told


def test_it_trains_and_the_file_is_in_the_lists(server, events):
    """In the same prompt two loaders wait for it; then the page's lists have it."""
    assert file(server, "whole").is_file()
    for node in ("VegaLoraLoader", "VegaLCMLora"):
        listed = server.get(f"/object_info/{node}").json()[node]["input"]["required"]["lora_name"]
        assert "whole.safetensors" in listed[1]["options"]
    ran = [data["node"] for kind, data in events if kind == "executed"]
    assert "train" in ran


def test_progress_and_samples_are_shown(server, events):
    """The bar reaches its end, with pictures on the way; at last the node shows a sheet."""
    shown = [data for kind, data in events if kind == "progress" and data["node"] == "train"]
    assert (shown[-1]["value"], shown[-1]["max"]) == (STEPS, STEPS)
    assert len([kind for kind, _ in events if kind == "preview"]) >= 2
    (sheet,) = next(data["output"]["images"] for kind, data in events if kind == "executed" and data["node"] == "train")
    with server.connect() as client:
        assert client.download(sheet)[:4] == b"\x89PNG"


def test_the_same_inputs_train_once(server, client, events):
    """Until a caption changes: then other pictures are refused under that name."""
    prompt = {"train": graph("whole", sample_prompts="\na lake")["1"]}
    ran = [data["node"] for kind, data in client.events(client.queue(prompt)) if kind == "executing"]
    assert ran == [None]
    before, caption = file(server, "whole").read_bytes(), server.base / "input" / FOLDER / "0.txt"
    text = caption.read_text()
    caption.write_text("another caption")
    said = refused(client, prompt)
    caption.write_text(text)
    assert "pictures was" in said
    assert "overwrite to begin anew" in said
    assert "--" not in said
    assert file(server, "whole").read_bytes() == before


def test_interrupted_it_goes_on(server, client, work, events):
    """It ends with the very tensors of a run that was never interrupted."""
    prompt = graph("broken")
    told = client.events(client.queue(prompt))
    next(data for kind, data in told if kind == "progress" and data["max"] == STEPS and data["value"])
    server.post("/interrupt", {})
    with pytest.raises(comfyui.PromptError, match="interrupted"):
        list(told)
    assert 0 < saved(work, "broken") < STEPS
    assert not file(server, "broken").exists()
    client.run(prompt)
    loras = server.base / "models" / "loras"
    assert runs.largest_difference(runs.weights(loras, "broken"), runs.weights(loras, "whole")) == 0


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"folder": "nowhere"}, "no folder 'nowhere'"),
        ({"folder": "../output"}, "no folder '../output'"),
        ({"folder": "."}, "no folder '.'"),
        ({"folder": 7}, "no name"),
        ({"name": "../mine"}, "can't be a file's name"),
        ({"name": ""}, "empty name"),
        ({"name": "con"}, "device on Windows"),
        ({"model_name": "nowhere.safetensors"}, "no model 'nowhere.safetensors'"),
        ({"resolution": 32}, "resolution is 32: give 0"),
        ({"steps": 0}, "smaller than min"),
    ],
    ids=lambda given: "-".join(map(str, given.values())) if isinstance(given, dict) else "",
)
def test_bad_inputs_are_refused_before_they_run(client, events, inputs, words):
    assert words in refused(client, graph("never", **inputs))


def test_missing_packages_are_named():
    """With the command for the Python that runs ComfyUI."""
    said = train_lora.missing((*train_lora.PACKAGES, "no_such_package"))
    assert f'"{sys.executable}" -m pip install accelerate peft' in said
    assert train_lora.missing(train_lora.PACKAGES) is None


def test_no_prompt_becomes_an_option():
    options = {"name": "--help", "rank": 4, "class_prompt": ["--work=elsewhere", "a -- b"], "sample_prompts": []}
    options |= {"overwrite": False, "random_flip": True, "resolution": None, "instance_prompt": "-v"}
    chosen = parser().parse_args(["lora", "vega-nano", "pictures", *training_process.command_line(options)])
    assert (chosen.name, chosen.instance_prompt, chosen.work) == ("--help", "-v", Path("vega-training"))
    assert chosen.class_prompt == ["--work=elsewhere", "a -- b"]
    assert (chosen.sample_prompts, chosen.overwrite, chosen.random_flip, chosen.resolution) == ([], False, True, None)


@pytest.mark.parametrize("name", ["my-style", "a.b", "é 人", "console", "x" * file_names.MAX_LETTERS])
def test_names_that_every_system_has(name, tmp_path):
    file_names.check(name)
    (tmp_path / f"{name}.safetensors").touch()


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\\b", "..", ".a", "a.", "a ", "a:b", "a\n", "NUL", "com1.x", "x" * 101])
def test_names_that_some_system_lacks(name):
    with pytest.raises(ValueError, match="name|device"):
        file_names.check(name)


def test_failures_are_one_sentence(tmp_path):
    """Of a traceback its last line; of a process that was killed what may have been; options by the names of inputs."""
    log = tmp_path / "log.txt"
    log.write_text("a warning\rtraining: 10%\nRead it again, or give --lcm-lora or another --name.\n\n")
    assert training_process.failure(log, 1) == "Read it again, or give lcm_lora or another name."
    assert "ended by signal 9, perhaps for lack of memory" in training_process.failure(log, -9)
    log.write_text("Traceback (most recent call last):\n  File\ntorch.OutOfMemoryError: CUDA out of memory.\n")
    said = training_process.failure(log, 1)
    assert "CUDA out of memory.): turn gradient_checkpointing on" in said
    assert str(log) in said


def test_folders_in_folders_are_listed(server):
    """As the host has them under / on every system."""
    (server.base / "input" / "one" / "two").mkdir(parents=True)
    listed = server.get("/object_info/VegaTrainLora").json()["VegaTrainLora"]["input"]["required"]["folder"][1]["options"]
    assert {"one", "one/two", "vega_example_style"} <= set(listed)


def test_the_folders_content_is_seen(tmp_path):
    """A new file, a changed one, and one in a folder in it."""
    seen = [training_folders.content(tmp_path)]
    for name, text in (("a.txt", "a"), ("a.txt", "ab"), ("b/c.txt", "c")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(training_folders.content(tmp_path))
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    assert training_folders.content(tmp_path) == seen[-1]
    assert len({tuple(one) for one in seen}) == 4


@pytest.mark.server
def test_nobody_listens_so_it_ends(tmp_path):
    """Who started it has died: its pipe is closed, and the process ends, saved, after its step."""
    runs.pictures(tmp_path / "pictures")
    given = runs.arguments(tmp_path, "vega-nano", "--progress=json", steps=100_000, save_every=100_000)
    command = [sys.executable, str(training_process.PACK), *given]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
    next(line for line in process.stdout if line.startswith('{"event": "step"'))
    process.stdout.close()
    assert process.wait(600) != 0
    assert 0 < saved(tmp_path / "work", "test") < 100_000


@pytest.mark.soak
@pytest.mark.skipif(os.name == "nt", reason="Windows kills otherwise")
def test_a_killed_server_leaves_no_training(tmp_path):
    with comfyui.serve(tmp_path / "base") as server:
        runs.pictures(server.base / "input" / FOLDER)
        with server.connect() as client:
            told = client.events(client.queue(graph("endless", steps=100_000)))
            next(data for kind, data in told if kind == "progress" and data["max"] == 100_000 and data["value"])
            (training,) = psutil.Process(server.process.pid).children()
            server.process.kill()
        training.wait(600)
        assert 0 < saved(server.base / "user" / "__vega" / "training", "endless") < 100_000
