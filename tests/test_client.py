"""The Python client on the running server: pictures, callbacks, refusals, and many calls at once."""

import asyncio
import io
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from client_graphs import PROMPT, graph, same
from PIL import Image

from vega_client import AsyncClient, RequestError
from vega_client.images import image_paths

ROOT = Path(__file__).resolve().parents[1]


def test_generate_draws_what_the_api_answers(server, python_client):
    image = python_client.generate(PROMPT, seed=3, steps=2, width=64, height=96, format="png")
    body = {"prompt": PROMPT, "seed": 3, "num_inference_steps": 2, "img_width": 64, "img_height": 96, "format": "png"}
    answer = requests.post(f"{server.url}/v1/segmind-vega-rt-v1", json=body)
    assert same(image, Image.open(io.BytesIO(answer.content)))
    assert image.size == (64, 96)
    assert image.info["seed"] == 3
    drawn = python_client.generate(PROMPT, format="png")
    assert same(python_client.generate(PROMPT, seed=drawn.info["seed"], format="png"), drawn)


def test_image_to_image_and_the_base_model(python_client):
    source = python_client.generate(PROMPT, seed=3)
    assert python_client.generate("snow", image=source, denoise=0.4).size == source.size
    options = {"steps": 3, "negative_prompt": "sea", "guidance_scale": 2}
    assert python_client.generate("snow", model="segmind-vega", **options).size == source.size


def test_callbacks_are_told_of_every_step_and_shown_previews(python_client):
    steps, previews = [], []
    plain = python_client.generate(PROMPT, seed=3, steps=4)
    watched = {"on_progress": lambda *step: steps.append(step), "on_preview": previews.append}
    image = python_client.generate(PROMPT, seed=4, steps=4, **watched)
    assert steps == [(k, 4) for k in range(1, 5)]
    assert len(previews) == 4
    assert all(preview.size == image.size for preview in previews)
    assert not same(plain, image)


def test_a_refusal_is_an_error_with_the_servers_words(python_client):
    with pytest.raises(RequestError, match="multiple of 8") as error:
        python_client.generate(PROMPT, width=65)
    assert (error.value.status, error.value.field) == (400, "img_width")


def test_asynchronous_and_many_at_once(server):
    async def draw():
        async with AsyncClient(server.url) as client:
            drawn = [client.generate(f"{PROMPT}, {k} stars", seed=k, format="png", width=128, height=128) for k in range(4)]
            queued = [client.queue(graph(k, CLIPTextEncode__text=f"{PROMPT}, {k} stars")) for k in range(4)]
            return await asyncio.gather(*drawn, *queued)

    images = asyncio.run(draw())
    for one, (other,) in zip(images[:4], images[4:], strict=True):
        assert same(one, other)


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
