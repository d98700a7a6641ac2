"""A template whose LCM-LoRA lies in models/loras as a browser saved it: found and named, or refused with what to do."""

import copy
import io
import json
import os
from pathlib import Path

import distilled_loras
import pytest
from PIL import Image

from dev import comfyui, single_files

TEMPLATE = json.loads((Path(__file__).parents[1] / "workflows" / "api" / "vega_txt2img_1024.json").read_text())
LORA, SAVE = "2", "7"
RT, DOWNLOADED = "Segmind-VegaRT.safetensors", "pytorch_lora_weights (1).safetensors"


@pytest.fixture(scope="module")
def loras(server):
    """models/loras of a server that has a small Segmind-Vega under the template's name."""
    checkpoint = server.base / "models" / "checkpoints" / "segmind-vega.safetensors"
    single_files.write(checkpoint, "Segmind-Vega", vae="full")
    yield server.base / "models" / "loras"
    checkpoint.unlink()


@pytest.fixture
def downloaded(loras):
    """The LCM-LoRA as a browser saved the second file of its name."""
    path = distilled_loras.kohya(loras / DOWNLOADED, "Segmind-Vega")
    yield path
    path.unlink()


def template(**inputs) -> dict:
    """The template in a size that is drawn soon; inputs: of its LCM-LoRA's node."""
    graph = copy.deepcopy(TEMPLATE)
    graph["4"]["inputs"] |= {"width": 64, "height": 64}
    graph[LORA]["inputs"] |= inputs
    return graph


def draw(client, graph) -> bytes:
    """The picture's pixels."""
    return Image.open(io.BytesIO(client.download(client.run(graph)[SAVE]["images"][0]))).tobytes()


def test_a_template_draws_with_the_file_as_saved(server, client, downloaded):
    """The page lists the name, so that it misses nothing; the log says which file it is."""
    options = server.get("/object_info/VegaLCMLora").json()["VegaLCMLora"]["input"]["required"]["lora_name"][1]["options"]
    assert {RT, DOWNLOADED} <= set(options)
    picture = draw(client, template())
    assert f"Apply LCM-LoRA (Vega): {RT} is {DOWNLOADED}, by its contents" in server.log.read_text()
    assert draw(client, template(lora_name=DOWNLOADED)) == picture


def test_a_file_replaced_between_prompts_is_read(server, client, downloaded):
    first = draw(client, template())
    os.replace(distilled_loras.kohya(downloaded.with_name("new"), "Segmind-Vega", 128), downloaded)
    second = draw(client, template())
    assert first != second


@pytest.mark.parametrize("there", ["nothing", "a style"])
def test_without_it_the_prompt_is_refused_with_what_to_do(server, client, loras, there):
    """Before anything is drawn, also where a style has the name."""
    style = loras / DOWNLOADED
    if there == "a style":
        distilled_loras.diffusers(style, "Segmind-Vega", 64, tuple(distilled_loras.ATTENTION))
    response = server.post("/prompt", {"prompt": template()})
    style.unlink(missing_ok=True)
    assert response.status_code == 400
    (error,) = response.json()["node_errors"][LORA]["errors"]
    assert f"There is no LoRA '{RT}' in models/loras. Put it there, or press R and choose another." in error["details"]
    with pytest.raises(comfyui.PromptError, match="There is no LoRA"):
        client.run(template())
