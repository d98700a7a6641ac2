"""Train LoRA (Vega) with the inputs that change what is trained: their effect in the file and in the run's folder."""

import json
import shutil

import pytest
import training_runs as runs
from PIL import Image
from vega_pack.nodes import model_lists

from train.base import NANO_LCM_LORA

FOLDER = "sets/small"
SETTINGS = {"learning_rate": 1e-3, "rank": 2, "resolution": 64, "seed": 0, "batch_size": 2, "steps": 2}
SETTINGS |= {"gradient_accumulation_steps": 1, "gradient_checkpointing": False, "folder": FOLDER}
pytestmark = pytest.mark.soak


@pytest.fixture
def train(server, client):
    """(a function that trains under a name with these inputs, the folder of runs, that of LoRAs)."""
    runs.pictures(server.base / "input" / FOLDER)

    def run(name: str, **inputs):
        given = {"model_name": model_lists.EMBEDDED_MODEL, "name": name, **SETTINGS, **inputs}
        client.run({"1": {"class_type": "VegaTrainLora", "inputs": given}})

    return run, server.base / "user" / "__vega" / "training", server.base / "models" / "loras"


def test_class_prompts(train):
    """A prompt a line, drawn in turn; what is learned is another LoRA."""
    run, work, loras = train
    run("without")
    run("with", class_prompt="a lake\n\nhills\n", num_class_images=3)
    assert json.loads((work / "with" / "settings.json").read_text())["class_prompt"] == ["a lake", "hills"]
    assert len(list((work / "with" / "class").iterdir())) == 3
    assert runs.largest_difference(runs.weights(loras, "with"), runs.weights(loras, "without")) > 0


def test_text_encoders(train):
    run, _, loras = train
    run("encoders", train_text_encoder=True)
    assert {name.partition("_text_model")[0] for name in runs.weights(loras, "encoders") if "_te" in name} == {
        "lora_te1",
        "lora_te2",
    }


def test_an_lcm_lora_for_samples(train):
    """A row of samples in few steps, above those without it."""
    run, work, loras = train
    shutil.copy(NANO_LCM_LORA, loras / "few.safetensors")
    run("samples", lcm_lora="few.safetensors", sample_prompts="a lake\nhills")
    assert json.loads((work / "samples" / "settings.json").read_text())["lcm_lora"] == str(loras / "few.safetensors")
    with Image.open(work / "samples" / "samples" / "000002.png") as sheet:
        assert sheet.size == (128, 128)
