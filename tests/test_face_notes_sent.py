"""The notes on nodes' faces, as ComfyUI's page gets them from the real server; programs get none."""

import importlib.util
import json

import pytest
from graphs import ACCELERATE, EMPTY, LOADER, LORA, SAMPLER, TEXT, text_to_image

from dev import comfyui

PAGE = {"supports_preview_metadata": True, "supports_manager_v4_ui": True}  # what the page announces
NANO_LOADED = {"family": "vega-nano", "parameters": "6.7M", "size": "256 x 256"}


def announce(client) -> None:
    client.socket.send(json.dumps({"type": "feature_flags", "data": PAGE}))
    while json.loads(client.socket.recv())["type"] != "feature_flags":
        pass


@pytest.fixture
def page_client(client):
    announce(client)
    return client


def run(client, graph: dict) -> tuple[str, dict[str, list[dict]], list[str]]:
    """The prompt's id, the notes that came by node, and the nodes that the host had in its cache."""
    prompt_id, came, cached = client.queue(graph), {}, []
    for kind, data in client.events(prompt_id):
        if kind == "vega.note":
            assert data["type"] == graph[data["node"]]["class_type"]
            came[data["node"]] = data["notes"]
        elif kind == "execution_cached":
            cached = data["nodes"]
    return prompt_id, came, cached


def fetch_notes(server, prompt_id: str) -> dict[str, list[dict]]:
    answer = server.get(f"/vega/notes/{prompt_id}").json()
    return {node_id: one["notes"] for node_id, one in answer.items()}


def how_drawn() -> str:
    return "openvino" if importlib.util.find_spec("openvino") else "packed"


def far_off(seed: int, side: int = 512) -> dict:
    return text_to_image(
        CLIPTextEncode__text="portrait of a smiling woman",
        EmptyLatentImage__width=side,
        EmptyLatentImage__height=side,
        VegaLCMSampler__seed=seed,
        VegaLCMSampler__steps=1,
    )


def test_the_page_gets_the_notes_also_of_cached_nodes(server, page_client):
    server.free()
    _, came, cached = run(page_client, far_off(seed=1))
    assert cached == []
    (loaded,), (applied,), (unknown,), (size,) = (came[node_id] for node_id in (LOADER, LORA, TEXT, SAMPLER))
    assert loaded["values"].items() >= NANO_LOADED.items()
    assert (applied["key"], applied["values"]) == ("applied", {"count": 182, "total": 182, "strength": "1.0"})
    assert (unknown["key"], unknown["is_warning"]) == ("unknown", True)
    assert unknown["values"] == {"words": "night, sunset, mountains, forest, lake"}
    assert (size["values"], size["is_warning"]) == ({"size": "512 x 512", "better": "256 x 256"}, True)

    prompt_id, again, cached = run(page_client, far_off(seed=2))
    assert {LOADER, LORA, TEXT, EMPTY} <= set(cached)
    (accelerated,) = again.pop(ACCELERATE)
    assert (accelerated["key"], accelerated["values"]) == (how_drawn(), {"size": "512 x 512"})
    assert again == {SAMPLER: [size]}
    assert fetch_notes(server, prompt_id) == came


def test_a_good_prompt_takes_the_warnings_back(server, page_client):
    run(page_client, far_off(seed=3))
    prompt_id, came, _ = run(page_client, text_to_image(VegaLCMSampler__seed=3, VegaLCMSampler__steps=1))
    assert came[SAMPLER] == []
    assert TEXT not in fetch_notes(server, prompt_id)


def test_programs_get_no_notes_and_the_same_outputs(server, client):
    server.free()
    prompt_id, came, _ = run(client, far_off(seed=4))
    assert came == {}
    assert list(client.outputs(prompt_id)) == [
        node_id for node_id, node in far_off(4).items() if node["class_type"] == "SaveImage"
    ]


def test_what_the_page_ran_is_the_same_in_history(server, page_client):
    prompt_id, *_ = run(page_client, far_off(seed=5, side=128))
    assert len(comfyui.output_images(page_client.outputs(prompt_id))) == 1
    assert len(page_client.outputs(prompt_id)) == 1


def test_of_an_unknown_prompt_nothing_is_said(server):
    assert fetch_notes(server, "no-such-prompt") == {}
