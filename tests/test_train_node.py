"""Train LoRA (Vega) and Distil LCM-LoRA (Vega) on the real server.

They train, show how far they are, go on after Interrupt, and refuse in a sentence.
"""

import io
import json
import os
from pathlib import Path

import graphs
import psutil
import pytest
import training_runs as runs
from PIL import Image
from safetensors import safe_open
from vega_pack.nodes import model_lists

from dev import comfyui
from train import score_card
from train.__main__ import main

FOLDER, STEPS = "sets/lakes at night", 20
SETTINGS = {"learning_rate": 1e-3, "rank": 2, "resolution": 64, "seed": 0, "batch_size": 2}
SETTINGS |= {"gradient_accumulation_steps": 1, "gradient_checkpointing": False, "steps": STEPS}
PROMPTS = [f"{time} over {place}" for time in ("night", "dawn") for place in ("a lake", "hills", "a city", "the sea")]
DISTIL = {"prompts": "\n".join([*PROMPTS, "", PROMPTS[0]]), "folder": "none", "method": "auto", "w_min": 2.5, "w_max": 3.5}
DISTIL |= {"steps": 2, "score_prompts": 8}


def graph(name: str, /, **inputs) -> dict:
    given = {"model_name": model_lists.EMBEDDED_MODEL, "folder": FOLDER, "name": name, **SETTINGS, **inputs}
    return {"1": {"class_type": "VegaTrainLora", "inputs": given}}


def distil(name: str, /, **inputs) -> dict:
    prompt = graph(name, **{**DISTIL, **inputs})
    prompt["1"]["class_type"] = "VegaTrainLCMLora"
    return prompt


def refused(client, prompt: dict) -> str:
    """The sentence that the server answers with, or that the node ends with."""
    with pytest.raises(comfyui.PromptError) as raised:
        client.run(prompt)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def file(server, name: str) -> Path:
    return server.base / "models" / "loras" / f"{name}.safetensors"


@pytest.fixture(scope="module")
def work(server):
    return server.base / "user" / "__vega" / "training"


@pytest.fixture(scope="module")
def trained(server) -> dict:
    """A graph that trains `whole` and distils `few`, and draws with both, the former by core's Load LoRA and by ours."""
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
    prompt[graphs.LORA]["inputs"] |= {"model": ["ours", 0], "lora_name": ["distil", 0]}
    prompt["train"] = graph("whole", sample_prompts="\na lake")["1"]
    prompt["distil"] = distil("few")["1"]
    return prompt


def interrupt(server, client, prompt: dict) -> None:
    """After its first step or a later one."""
    told = client.events(client.queue(prompt))
    next(data for kind, data in told if kind == "progress" and data["max"] == STEPS and data["value"])
    server.post("/interrupt", {})
    with pytest.raises(comfyui.PromptError, match="interrupted"):
        list(told)


@pytest.fixture(scope="module")
def left(server, work, trained) -> tuple[int, bool]:
    """What an interrupted training of `whole` leaves: the step that is saved, and whether there is a file."""
    with server.connect() as client:
        interrupt(server, client, {"train": trained["train"]})
    return runs.saved(work, "whole"), file(server, "whole").exists()


@pytest.fixture(scope="module")
def events(server, trained, left):
    """All that the server told of it, when it went on after the interruption."""
    with server.connect() as client:
        told = list(client.events(client.queue(trained)))
    assert psutil.Process(server.process.pid).children(recursive=True) == [], "the processes that trained are gone"
    return told


def progress(events, node: str) -> dict:
    """The last of it."""
    return [data for kind, data in events if kind == "progress" and data["node"] == node][-1]


def sheet(server, events, node: str) -> Image.Image:
    """What the node shows when it has run."""
    (shown,) = next(data["output"]["images"] for kind, data in events if kind == "executed" and data["node"] == node)
    with server.connect() as client:
        return Image.open(io.BytesIO(client.download(shown)))


def test_it_trains_and_the_file_is_in_the_lists(server, events):
    """In the same prompt the loaders wait for it; then the page's lists have it."""
    for node, names in (("VegaLoraLoader", ("whole", "few")), ("VegaLCMLora", ("whole", "few"))):
        listed = server.get(f"/object_info/{node}").json()[node]["input"]["required"]["lora_name"]
        assert {f"{name}.safetensors" for name in names} <= set(listed[1]["options"])
    ran = [data["node"] for kind, data in events if kind == "executed"]
    assert {"train", "distil", graphs.SAVE} <= set(ran)


def test_progress_and_samples_are_shown(server, events):
    """The bar reaches its end, with pictures on the way; at last the node shows a sheet."""
    shown = progress(events, "train")
    assert (shown["value"], shown["max"]) == (STEPS, STEPS)
    assert len([kind for kind, _ in events if kind == "preview"]) >= 2
    assert sheet(server, events, "train").format == "PNG"


def test_a_distillation_shows_its_score_card(server, work, events):
    """Of the prompt that it kept from training; what it learned from stands on the node."""
    shown = progress(events, "distil")
    assert (shown["value"], shown["max"]) == (DISTIL["steps"], DISTIL["steps"])
    assert sheet(server, events, "distil").size == (score_card.MARGIN_PIXELS + 64, 5 * 64)
    assert json.loads((work / "few" / "score-card.json").read_text())["held out"]
    prompt_id = next(data["prompt_id"] for kind, data in events if kind == "executed")
    (about,) = server.get(f"/vega/notes/{prompt_id}").json()["distil"]["notes"]
    assert (about["key"], about["values"]) == ("trainedOnPrompts", {"file": "few.safetensors", "count": 8, "steps": 2})


def test_a_distillation_has_its_settings(work, events):
    """Those of the node, and the method that is the better one for so few steps."""
    settings = json.loads((work / "few" / "settings.json").read_text())
    given = {name: value for name, value in (SETTINGS | DISTIL).items() if name in settings}
    assert {*SETTINGS, "w_min", "w_max", "score_prompts", "method"} <= given.keys()
    assert {name: settings[name] for name in given} == given | {"method": "trajectories"}


def test_the_same_inputs_train_once(server, client, trained, events):
    prompt = {name: trained[name] for name in ("train", "distil")}
    ran = [data["node"] for kind, data in client.events(client.queue(prompt)) if kind == "executing"]
    assert ran == [None]


@pytest.mark.soak
def test_other_pictures_are_refused(server, client, trained, events):
    """A caption has changed: under that name they are refused, until it is as it was."""
    prompt = {"train": trained["train"]}
    before, caption = file(server, "whole").read_bytes(), server.base / "input" / FOLDER / "0.txt"
    text = caption.read_text()
    caption.write_text("another caption")
    said = refused(client, prompt)
    caption.write_text(text)
    assert "pictures was" in said
    assert "overwrite to begin anew" in said
    assert "--" not in said
    assert file(server, "whole").read_bytes() == before


def test_interrupted_it_goes_on(server, left, events, tmp_path):
    """It ends with the very tensors of a run that was never interrupted."""
    step, has_file = left
    assert 0 < step < STEPS
    assert not has_file
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, "vega-nano", steps=STEPS))
    loras = server.base / "models" / "loras"
    assert runs.largest_difference(runs.weights(loras, "whole"), runs.weights(tmp_path)) == 0


@pytest.mark.soak
@pytest.mark.parametrize("learned_from", [{}, {"prompts": "", "folder": FOLDER}], ids=["prompts", "folder"])
def test_an_interrupted_distillation_goes_on(server, client, work, events, learned_from):
    """So does one that began on pictures; the file of both is that of an unbroken one."""
    names = [f"{name} {learned_from.get('folder', 'prompts')[:4]}" for name in ("unbroken", "broken")]
    prompts = [distil(name, steps=STEPS, score_prompts=0, **learned_from) for name in names]
    client.run(prompts[0])
    interrupt(server, client, prompts[1])
    assert 0 < runs.saved(work, names[1]) < STEPS
    client.run(prompts[1])
    loras = server.base / "models" / "loras"
    assert runs.largest_difference(*(runs.weights(loras, name) for name in names)) == 0


@pytest.mark.soak
def test_a_finished_distillation_is_not_drawn_again(tmp_path):
    """Also by a server that has nothing of it in its cache: the node's process finds the file and the score card."""
    prompt, ran = distil("done"), []
    for _ in range(2):
        with comfyui.serve(tmp_path / "base") as server, server.connect() as client:
            client.run(prompt)
            with safe_open(file(server, "done"), "pt") as lora:  # whose library writes metadata in any order
                made = {name: lora.get_tensor(name).numpy().tobytes() for name in lora.keys()} | lora.metadata()  # noqa: SIM118
            card = server.base / "user" / "__vega" / "training" / "done" / "score-card.png"
            ran.append([made, card.stat().st_mtime_ns])
    assert ran[0] == ran[1]


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


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"prompts": " \n"}, "prompts is empty: write one prompt a line, or choose a folder"),
        ({"folder": FOLDER}, f"Both prompts and the folder {FOLDER} are given"),
        ({"folder": "nowhere", "prompts": ""}, "no folder 'nowhere'"),
        ({"name": "../mine"}, "can't be a file's name"),
        ({"method": "magic"}, "not in"),
        ({"resolution": 32}, "resolution is 32: give 0"),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, dict) else "",
)
def test_bad_inputs_of_a_distillation(client, events, inputs, words):
    """They are refused before they run."""
    assert words in refused(client, distil("never", **inputs))


def test_folders_in_folders_are_listed(server):
    """As the host has them under / on every system."""
    (server.base / "input" / "one" / "two").mkdir(parents=True)
    listed = server.get("/object_info/VegaTrainLora").json()["VegaTrainLora"]["input"]["required"]["folder"][1]["options"]
    assert {"one", "one/two", "vega_example_style"} <= set(listed)


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
        assert 0 < runs.saved(server.base / "user" / "__vega" / "training", "endless") < 100_000
