"""The prompt and the workflow in the files of Send Image (Vega): what they carry, and what is left out."""

import base64
import io
import json
import math
import re

import pytest
from PIL import Image
from sent_images import FORMATS, SEND, follow, graph, opened, plain, run, with_metadata
from vega_pack.images import graph_metadata
from vega_pack.images.graph_metadata import LEFT_OUT_TEXT

from dev import comfyui


def test_the_workflow_is_where_core_puts_it(metadata_client, noise):
    prompt = graph("png")
    prompt[SEND + "_jpeg"] = {**prompt[SEND], "inputs": {**prompt[SEND]["inputs"], "format": "jpeg"}}
    prompt[SEND + "_webp"] = {**prompt[SEND], "inputs": {**prompt[SEND]["inputs"], "format": "webp"}}
    prompt["core_png"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "core"}}
    webp = {"images": ["3", 0], "filename_prefix": "core", "fps": 1.0, "lossless": False, "quality": 80, "method": "fastest"}
    prompt["core_webp"] = {"class_type": "SaveAnimatedWEBP", "inputs": webp}
    prompt_id, frames = run(metadata_client, prompt, workflow={"nodes": ["größer"]}, more=[1, 2])
    files = {m["image_type"]: file for m, file in map(with_metadata, frames) if m["batch_index"] == 1}
    outputs = metadata_client.outputs(prompt_id)
    core = {k: Image.open(io.BytesIO(metadata_client.download(outputs[k]["images"][0]))) for k in ("core_png", "core_webp")}
    assert Image.open(io.BytesIO(files["image/png"])).text == core["core_png"].text
    expected = dict(core["core_webp"].getexif())
    assert expected[0x010F] == 'workflow:{"nodes": ["gr\\u00f6\\u00dfer"]}'
    assert json.loads(expected[0x0110].removeprefix("prompt:")).keys() == prompt.keys()
    assert dict(Image.open(io.BytesIO(files["image/webp"])).getexif()) == expected
    assert dict(Image.open(io.BytesIO(files["image/jpeg"])).getexif()) == expected


def carried(file: bytes) -> dict:
    """What a file carries, by name, read as browsers read JSON: a NaN is an error."""

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    image = Image.open(io.BytesIO(file))
    texts = getattr(image, "text", None) or dict(str(text).split(":", 1) for text in image.getexif().values())
    return {name: json.loads(text, parse_constant=no_constant) for name, text in texts.items()}


@pytest.fixture(scope="module")
def sent_in() -> str:
    """A picture for Receive Image, in base64."""
    buffer = io.BytesIO()
    Image.effect_noise((24, 16), 50).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PREFIX = "data:image/png;base64,"

TYPED = {  # where the picture was typed in: the nodes of the prompt, and those of the workflow that show it
    "into Receive Image": ({"1": ("VegaReceiveImage", {"image": "PICTURE"})}, ["PICTURE"], []),
    "as a URL": ({"1": ("VegaReceiveImage", {"image": PREFIX + "PICTURE"})}, [PREFIX + "PICTURE"], []),
    "into a text node": (
        {"0": ("PrimitiveString", {"value": "PICTURE"}), "1": ("VegaReceiveImage", {"image": ["0", 0]})},
        [""],
        [{"id": 0, "type": "PrimitiveString", "widgets_values": ["PICTURE"]}],
    ),
    "far before it": (
        {
            "0": ("PrimitiveStringMultiline", {"value": " PICTURE\n"}),
            "3": ("StringTrim", {"string": ["0", 0], "mode": "Both"}),
            "4": ("StringConcatenate", {"string_a": PREFIX, "string_b": ["3", 0], "delimiter": ""}),
            "1": ("VegaReceiveImage", {"image": ["4", 0]}),
        },
        [""],
        [{"id": 0, "type": "PrimitiveStringMultiline", "widgets_values": [" PICTURE\n"]}],
    ),
    "and into a primitive that leads nowhere now": (
        {"1": ("VegaReceiveImage", {"image": "PICTURE"})},
        ["PICTURE"],
        [{"id": 0, "type": "PrimitiveNode", "widgets_values": [PREFIX.upper() + "PICTURE", "fixed"]}],
    ),
    "into the browser's primitive": (
        {"1": ("VegaReceiveImage", {"image": "PICTURE"})},
        ["PICTURE"],
        [{"id": 0, "type": "PrimitiveNode", "widgets_values": ["PICTURE", "fixed"]}],
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("where", TYPED)
def test_files_carry_no_picture_that_was_sent_in(metadata_client, sent_in, where, format):
    def filled(value):
        return json.loads(json.dumps(value).replace("PICTURE", sent_in))

    def emptied(value):
        return json.loads(re.sub(rf'"[^"]*{re.escape(sent_in)}[^"]*"', json.dumps(LEFT_OUT_TEXT), json.dumps(value)))

    nodes, widgets, more = filled(TYPED[where])
    prompt = {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}
    prompt[SEND] = {"class_type": "VegaSendImage", "inputs": {"images": ["1", 0], "format": format, "quality": 95}}
    workflow = {"nodes": [{"id": 1, "type": "VegaReceiveImage", "widgets_values": widgets}, *more], "title": "größer"}
    _, (frame,) = run(metadata_client, prompt, workflow=workflow)
    file = with_metadata(frame)[1]
    assert sent_in.encode() not in file
    told = carried(file)
    told["prompt"][SEND].pop("is_changed")  # the host's own addition
    assert told == {"prompt": emptied(prompt), "workflow": emptied(workflow)}
    assert opened(file).shape == (16, 24, 3)


def subgraph(id: str, *nodes, links=()) -> dict:
    return {"id": id, "nodes": list(nodes), "links": list(links)}


MUTED = {"id": 4, "type": "VegaReceiveImage", "mode": 2, "widgets_values": ["PICTURE"]}

# What the prompt doesn't have: nodes that are muted, and those inside and around subgraphs.
DRAWN = {
    "a muted node": {"nodes": [MUTED]},
    "values by name": {"nodes": [{**MUTED, "widgets_values": {"image": "PICTURE"}}]},
    "a node before a muted one": {
        "nodes": [{**MUTED, "widgets_values": [""]}, {"id": 3, "type": "PrimitiveNode", "widgets_values": ["PICTURE"]}],
        "links": [[1, 3, 0, 4, 0, "STRING"]],
    },
    "a subgraph": {"nodes": [{"id": 1, "type": "a"}], "definitions": {"subgraphs": [subgraph("a", MUTED)]}},
    "a node before one in a subgraph": {
        "nodes": [],
        "definitions": {
            "subgraphs": [
                subgraph(
                    "a",
                    {**MUTED, "widgets_values": [""]},
                    {"id": 3, "type": "PrimitiveString", "widgets_values": ["PICTURE"]},
                    links=[{"id": 1, "origin_id": 3, "origin_slot": 0, "target_id": 4, "target_slot": 0, "type": "STRING"}],
                )
            ]
        },
    },
    "the input of a subgraph in a subgraph": {
        "nodes": [{"id": 1, "type": "b", "widgets_values": ["PICTURE"]}],
        "definitions": {
            "subgraphs": [
                subgraph("b", {"id": 2, "type": "a", "widgets_values": ["PICTURE"]}),
                subgraph("a", {**MUTED, "widgets_values": [""]}),
            ]
        },
    },
}


@pytest.mark.parametrize("where", DRAWN)
def test_nor_one_in_nodes_that_were_not_run(sent_in, where):
    others = {"id": 9, "type": "Painter", "widgets_values": [sent_in[::-1], "text", "text" * 20, 1.5, None]}
    workflow = json.loads(json.dumps(DRAWN[where]).replace("PICTURE", sent_in))
    workflow["nodes"].append(others)
    _, texts = graph_metadata.serialize({}, {"workflow": workflow})
    assert sent_in not in texts["workflow"]
    expected = json.loads(json.dumps(workflow).replace(sent_in, LEFT_OUT_TEXT))
    assert json.loads(texts["workflow"]) == expected


@pytest.mark.parametrize(
    "odd",
    [
        None,
        [],
        "text",
        5,
        {"nodes": None},
        {"nodes": 5, "links": 5, "definitions": []},
        {"nodes": [1, {}], "links": [[], 1]},
    ],
)
def test_whatever_stands_where_the_workflow_should_is_carried(odd):
    prompt, texts = graph_metadata.serialize({"1": odd, "2": {"inputs": odd}}, {"workflow": odd, "other": odd})
    assert json.loads(prompt) == {"1": odd, "2": {"inputs": odd}}
    assert [json.loads(text) for text in texts.values()] == [odd, odd]


@pytest.mark.parametrize("format", FORMATS)
def test_nan_does_not_keep_a_browser_from_the_graph(metadata_client, noise, format):
    """NaN and infinity in a workflow don't keep a browser from reading the graph of a picture."""
    prompt = graph(format)
    numbers = [math.nan, math.inf, -math.inf, 1e300, 0.1, 3]
    prompt["1"]["is_changed"] = [math.nan]  # as the host writes it for nodes that say so
    pnginfo = {"workflow": {"nodes": [{"widgets_values": numbers}]}, "more": {"deep": [[math.nan]]}}
    body = {"prompt": prompt, "client_id": metadata_client.id, "extra_data": {"extra_pnginfo": pnginfo}}
    # Python's JSON, with its NaN.
    answer = metadata_client.server.http.post(f"{metadata_client.server.url}/prompt", json.dumps(body))
    frame, _ = follow(metadata_client, answer.json()["prompt_id"])
    told = carried(with_metadata(frame)[1])
    assert told["prompt"]["1"]["is_changed"] == [None]
    assert told["workflow"] == {"nodes": [{"widgets_values": [None, None, None, 1e300, 0.1, 3]}]}
    assert told["more"] == {"deep": [[None]]}


def test_nor_what_a_camera_saw():
    """Of Live Image: the frame is left out of prompt and workflow, and a painting stays."""
    painting = f"data:image/jpeg;base64,/9j/{'A' * 400}"
    seen = painting.replace(";", ";source=webcam;", 1)
    nodes = {"1": {"class_type": "VegaLiveImage", "inputs": {"picture": seen}}}
    workflow = {"nodes": [{"id": 1, "type": "VegaLiveImage", "widgets_values": [painting, 0.0]}], "seen": [seen]}
    prompt, others = graph_metadata.serialize(nodes, {"workflow": workflow})
    assert json.loads(prompt)["1"]["inputs"]["picture"] == LEFT_OUT_TEXT
    assert json.loads(others["workflow"]) == {**workflow, "seen": [LEFT_OUT_TEXT]}


def test_what_json_cannot_hold_is_null():
    value = {"a": b"digest", "b": {1}, "c": (1, math.nan)}
    assert graph_metadata.strict_json(value) == '{"a": null, "b": null, "c": [1, null]}'


def test_a_workflow_too_long_for_a_jpeg_is_left_out_and_logged(server, client, noise):
    _, (frame, _) = run(client, graph(), workflow={"notes": "x" * 70_000}, short=1)
    exif = Image.open(io.BytesIO(plain(frame)[1])).getexif()
    assert exif[0x0110].startswith("prompt:{")
    assert dict(exif).get(0x010F) is None
    assert exif[0x010E] == "short:1"
    assert "the workflow is too long for a JPEG and was left out" in server.log.read_text(encoding="utf-8")


@pytest.mark.server
@pytest.mark.soak
def test_disable_metadata_is_honoured(tmp_path):
    with comfyui.serve(tmp_path, "--disable-metadata") as server, server.connect() as client:
        Image.new("RGB", (64, 48)).save(server.base / "input" / "noise_0.png")
        Image.new("RGB", (64, 48)).save(server.base / "input" / "noise_1.png")
        for format in ("jpeg", "png"):
            _, (frame, _) = run(client, graph(format), workflow={"nodes": []})
            image = Image.open(io.BytesIO(plain(frame)[1]))
            assert not image.getexif()
            assert not getattr(image, "text", None)
