"""Send Image (Vega) on the running server: the frames a client gets, what stays to be fetched, and what is refused."""

import asyncio
import base64
import contextlib
import io
import json
import math
import os
import re
import struct
import time
from types import SimpleNamespace

import folder_paths
import graphs
import numpy as np
import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from comfy_api.v0_0_2 import io as io_
from PIL import Image
from vega_pack.api.host_client import HostClient
from vega_pack.images import encode, frame_codec, graph_metadata, store, temp_files
from vega_pack.images.frames import WRITE_BUFFER_LIMIT_BYTES
from vega_pack.images.graph_metadata import LEFT_OUT
from vega_pack.images.sink import image_sink

from dev import comfyui, host

SEND = "save_image_websocket_node"  # the name that the host's example client waits for
FORMATS = {"jpeg": "JPEG", "webp": "WEBP", "png": "PNG"}


@pytest.fixture(scope="module")
def noise(server):
    """Two different pictures in the server's input folder: name -> uint8 [H, W, 3]."""
    arrays = {f"noise_{k}.png": np.random.default_rng(k).integers(0, 256, (48, 64, 3), np.uint8) for k in range(2)}
    for name, array in arrays.items():
        Image.fromarray(array).save(server.base / "input" / name)
    return arrays


@pytest.fixture
def browser(server):
    """A client that has announced what the browser announces."""
    with server.connect() as connected:
        connected.socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        while json.loads(connected.socket.recv())["type"] != "feature_flags":
            pass
        yield connected


def graph(format="jpeg", quality=95) -> dict:
    """Both pictures as one batch, sent."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise_0.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "noise_1.png"}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        SEND: {"class_type": "VegaSendImage", "inputs": {"images": ["3", 0], "format": format, "quality": quality}},
    }


def queue(client, prompt: dict, **extra_pnginfo) -> str:
    """The prompt's id, as the browser queues it: with a workflow beside it."""
    body = {"prompt": prompt, "client_id": client.id, "extra_data": {"extra_pnginfo": extra_pnginfo}}
    return client.server.post("/prompt", body).json()["prompt_id"]


def follow(client, prompt_id: str) -> list[bytes]:
    """The prompt's frames; each must come while a node of ours is the executing one."""
    frames, executing = [], ""
    for kind, data in client.events(prompt_id):
        if kind == "executing":
            executing = data["node"]
        elif kind == "preview":
            assert executing.startswith(SEND)
            frames.append(data)
    return frames


def run(client, prompt: dict, **extra_pnginfo) -> tuple[str, list[bytes]]:
    """(prompt id, frames) of a prompt."""
    prompt_id = queue(client, prompt, **extra_pnginfo)
    return prompt_id, follow(client, prompt_id)


def plain(frame: bytes) -> tuple[str, bytes]:
    """(format, file) of the host's plain image frame."""
    event, kind = struct.unpack(">II", frame[:8])
    assert event == 1
    return {1: "jpeg", 2: "png"}[kind], frame[8:]


def with_metadata(frame: bytes) -> tuple[dict, bytes]:
    """(metadata, file) of the host's metadata frame."""
    event, length = struct.unpack(">II", frame[:8])
    assert event == 4
    return json.loads(frame[8 : 8 + length]), frame[8 + length :]


def opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


def finished(server, prompt_id: str) -> dict:
    """The prompt's /history, without a websocket."""
    while not (history := server.get(f"/history/{prompt_id}").json()):
        time.sleep(0.05)
    return history[prompt_id]


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_a_plain_client_gets_every_picture_in_order(client, noise, format):
    prompt_id, frames = run(client, graph(format))
    assert [plain(f)[0] for f in frames] == [format, format]
    for frame, array in zip(frames, noise.values(), strict=True):
        check_picture(plain(frame)[1], format, array)
    entries = client.outputs(prompt_id)[SEND]["sent"]
    assert [(e["format"], e["width"], e["height"]) for e in entries] == [(format, 64, 48)] * 2


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_frames_bring_every_picture_in_order(browser, noise, format):
    """A client with metadata frames gets every picture, in order."""
    prompt_id, frames = run(browser, graph(format))
    assert len(frames) == 2
    for i, (frame, array) in enumerate(zip(frames, noise.values(), strict=True)):
        metadata, file = with_metadata(frame)
        assert metadata == {
            "prompt_id": prompt_id,
            "node_id": SEND,
            "display_node_id": SEND,
            "parent_node_id": None,
            "real_node_id": SEND,
            "batch_index": i,
            "image_type": f"image/{format}",
        }
        check_picture(file, format, array)


def check_picture(file: bytes, format: str, array: np.ndarray) -> None:
    image = Image.open(io.BytesIO(file))
    assert image.format == FORMATS[format]
    drawn = np.asarray(image)
    if format == "png":
        assert (drawn == array).all()
        return
    expected = io.BytesIO()
    Image.fromarray(array).save(expected, format, quality=95, **{"jpeg": {"subsampling": 0}, "webp": {"method": 0}}[format])
    assert (drawn == opened(expected.getvalue())).all()


def test_webp_to_a_plain_client_is_refused(client, noise):
    """WebP to a client without metadata frames is refused before anything is sent."""
    prompt_id = client.queue(graph("webp"))
    kinds = []
    with pytest.raises(
        comfyui.PromptError, match="can't take webp: it didn't announce supports_preview_metadata. Use jpeg or png"
    ) as caught:
        for kind, _ in client.events(prompt_id):
            kinds.append(kind)
    assert caught.value.node_id == SEND
    assert "preview" not in kinds


def test_quality_counts_for_jpeg_and_not_for_png(client, noise):
    sizes = {(f, q): len(run(client, graph(f, q))[1][0]) for f in ("jpeg", "png") for q in (20, 90)}
    assert sizes["jpeg", 20] < sizes["jpeg", 90] / 2
    assert abs(sizes["png", 20] - sizes["png", 90]) < 64  # the prompt inside differs


def test_the_hosts_example_client_receives_every_picture(server, noise, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    source = (host.path() / "script_examples" / "websockets_api_example_ws_images.py").read_text(encoding="utf-8")
    example = {}
    exec(source.partition("prompt_text =")[0].replace("127.0.0.1:8188", f"127.0.0.1:{server.port}"), example)  # noqa: S102
    socket = example["websocket"].WebSocket()
    socket.connect(f"ws://127.0.0.1:{server.port}/ws?clientId={example['client_id']}")
    try:
        received = example["get_images"](socket, graph("png"))
    finally:
        socket.close()
    assert [(opened(file) == array).all() for file, array in zip(received[SEND], noise.values(), strict=True)] == [True] * 2


def test_the_graph_sends_what_save_image_saves(client):
    """The text-to-image graph sends the picture that Save Image saves, again when all is cached."""
    prompt = graphs.text_to_image()
    prompt[SEND] = {"class_type": "VegaSendImage", "inputs": {"images": ["6", 0], "format": "png", "quality": 95}}
    prompt_id, (frame,) = run(client, prompt)
    saved = opened(client.download(client.outputs(prompt_id)[graphs.SAVE]["images"][0]))
    sent_picture = opened(plain(frame)[1])
    assert np.abs(sent_picture.astype(int) - saved).max() <= 1
    again_id, (again,) = run(client, prompt)
    cached = dict(finished(client.server, again_id)["status"]["messages"])["execution_cached"]["nodes"]
    assert set(cached) == set(prompt) - {SEND}
    assert (opened(plain(again)[1]) == sent_picture).all()


def test_pictures_of_different_sizes_keep_their_order(browser, noise):
    prompt = {
        **graph("png"),
        "4": {
            "class_type": "ImageScale",
            "inputs": {"image": ["1", 0], "upscale_method": "nearest-exact", "crop": "disabled"},
        },
        "5": {"class_type": "CreateList", "inputs": {"inputs.input0": ["4", 0], "inputs.input1": ["2", 0]}},
    }
    prompt["4"]["inputs"].update(width=640, height=480)  # the first takes longest
    prompt[SEND]["inputs"]["images"] = ["5", 0]
    _, frames = run(browser, prompt)
    assert [with_metadata(f)[0]["batch_index"] for f in frames] == [0, 1]
    assert [opened(with_metadata(f)[1]).shape for f in frames] == [(480, 640, 3), (48, 64, 3)]


def files(server) -> set:
    return {p for name in ("output", "temp", "input") for p in (server.base / name).rglob("*")}


def test_metadata_frames_touch_no_disk(server, browser, noise):
    """For a client that takes metadata frames nothing touches the disk."""
    before = files(server)
    prompt_id, frames = run(browser, graph())
    assert (len(frames), set(browser.outputs(prompt_id)[SEND])) == (2, {"sent"})
    assert files(server) == before


@pytest.mark.parametrize("connected", [True, False])
def test_history_names_files_for_other_programs(server, client, noise, connected):
    """For any other program /history names files in temp as well.

    Most clients look there alone; whether one takes the frames, too, isn't known.
    """
    before, body = files(server), {"prompt": graph("png")}
    prompt_id = run(client, body["prompt"])[0] if connected else server.post("/prompt", body).json()["prompt_id"]
    output = finished(server, prompt_id)["outputs"][SEND]
    assert files(server) - before == {server.base / "temp" / image["filename"] for image in output["images"]}
    for image, entry, array in zip(output["images"], output["sent"], noise.values(), strict=True):
        file = server.get("/view", **image)
        assert (file.headers["Content-Type"], file.content) == ("image/png", server.get(entry["url"]).content)
        check_picture(file.content, "png", array)


def test_the_files_end_with_those_in_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "MAX_AGE_SECONDS", 0)
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))

    async def scene() -> tuple[int, int]:
        loop, file = asyncio.get_running_loop(), encode.EncodedImage("png", 1, 1, b"a")
        entries = await asyncio.to_thread(temp_files.write_expiring, loop, [file, file])
        await asyncio.sleep(0.05)
        temp_files.delete([tmp_path / "temp" / entries[0]["filename"]])  # gone already, as where the folder is emptied
        return len(entries), len(list((tmp_path / "temp").iterdir()))

    assert asyncio.run(scene()) == (2, 0)


def test_a_disk_that_takes_no_file_fails_no_program(monkeypatch, tmp_path, caplog):
    (tmp_path / "temp").write_bytes(b"")  # no folder
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))

    async def scene() -> list:
        return temp_files.write_expiring(asyncio.get_running_loop(), [encode.EncodedImage("png", 1, 1, b"a")])

    assert asyncio.run(scene()) == []
    assert "can't be written (File exists), so /history names only the pictures in memory" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_a_disk_that_ends_keeps_no_part_of_a_file(monkeypatch, tmp_path):
    import resource

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # bytes of any file
    try:
        with pytest.raises(OSError, match="too large"):
            temp_files.write(encode.EncodedImage("png", 1, 1, bytes(5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_workflow_is_where_core_puts_it(browser, noise):
    prompt = graph("png")
    prompt[SEND + "_jpeg"] = {**prompt[SEND], "inputs": {**prompt[SEND]["inputs"], "format": "jpeg"}}
    prompt[SEND + "_webp"] = {**prompt[SEND], "inputs": {**prompt[SEND]["inputs"], "format": "webp"}}
    prompt["core_png"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "core"}}
    webp = {"images": ["3", 0], "filename_prefix": "core", "fps": 1.0, "lossless": False, "quality": 80, "method": "fastest"}
    prompt["core_webp"] = {"class_type": "SaveAnimatedWEBP", "inputs": webp}
    prompt_id, frames = run(browser, prompt, workflow={"nodes": ["größer"]}, more=[1, 2])
    files = {m["image_type"]: file for m, file in map(with_metadata, frames) if m["batch_index"] == 1}
    outputs = browser.outputs(prompt_id)
    core = {k: Image.open(io.BytesIO(browser.download(outputs[k]["images"][0]))) for k in ("core_png", "core_webp")}
    assert Image.open(io.BytesIO(files["image/png"])).text == core["core_png"].text
    expected = dict(core["core_webp"].getexif())
    assert expected[0x010F] == 'workflow:{"nodes": ["gr\\u00f6\\u00dfer"]}'
    assert json.loads(expected[0x0110].removeprefix("prompt:")).keys() == prompt.keys()
    assert dict(Image.open(io.BytesIO(files["image/webp"])).getexif()) == expected
    assert dict(Image.open(io.BytesIO(files["image/jpeg"])).getexif()) == expected


SAYS_SO = {"comfy_usage_source": "comfyui-frontend"}  # in what ComfyUI's page queues
IS_ONE = {"supports_preview_metadata": True, "supports_manager_v4_ui": True}  # what it announces, also where it doesn't


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("extra_data", "flags"), [(SAYS_SO, {}), (SAYS_SO, None), ({}, IS_ONE)])
def test_a_browser_gets_files_as_preview_images_and_no_frames(server, noise, format, extra_data, flags):
    """flags: None for a browser that is closed before the prompt runs."""
    if extra_data and not hasattr(io_.Hidden, "comfy_usage_source"):
        pytest.skip("This ComfyUI doesn't ask who queued a prompt.")
    with server.connect() as page:
        if flags:
            page.socket.send(json.dumps({"type": "feature_flags", "data": flags}))
        if flags is None:
            page.socket.close()
        prompt = graph(format)
        prompt["preview"] = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
        body = {"prompt": prompt, "client_id": page.id, "extra_data": extra_data}
        prompt_id = server.post("/prompt", body).json()["prompt_id"]
        assert flags is None or [kind for kind, _ in page.events(prompt_id) if kind == "preview"] == []
    outputs = finished(server, prompt_id)["outputs"]
    ours, core = outputs[SEND], outputs["preview"]
    assert ours["sent"] == []
    for image, its, array in zip(ours["images"], core["images"], noise.values(), strict=True):
        assert {**image, "filename": ""} == {**its, "filename": ""}
        answer = server.get("/view", **image)
        assert answer.headers["Content-Type"] == f"image/{format}"
        check_picture(answer.content, format, array)


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
def test_files_carry_no_picture_that_was_sent_in(browser, sent_in, where, format):
    def filled(value):
        return json.loads(json.dumps(value).replace("PICTURE", sent_in))

    def emptied(value):
        return json.loads(re.sub(rf'"[^"]*{re.escape(sent_in)}[^"]*"', json.dumps(LEFT_OUT), json.dumps(value)))

    nodes, widgets, more = filled(TYPED[where])
    prompt = {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}
    prompt[SEND] = {"class_type": "VegaSendImage", "inputs": {"images": ["1", 0], "format": format, "quality": 95}}
    workflow = {"nodes": [{"id": 1, "type": "VegaReceiveImage", "widgets_values": widgets}, *more], "title": "größer"}
    _, (frame,) = run(browser, prompt, workflow=workflow)
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
    expected = json.loads(json.dumps(workflow).replace(sent_in, LEFT_OUT))
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
def test_nan_does_not_keep_a_browser_from_the_graph(browser, noise, format):
    """NaN and infinity in a workflow don't keep a browser from reading the graph of a picture."""
    prompt = graph(format)
    numbers = [math.nan, math.inf, -math.inf, 1e300, 0.1, 3]
    prompt["1"]["is_changed"] = [math.nan]  # as the host writes it for nodes that say so
    pnginfo = {"workflow": {"nodes": [{"widgets_values": numbers}]}, "more": {"deep": [[math.nan]]}}
    body = {"prompt": prompt, "client_id": browser.id, "extra_data": {"extra_pnginfo": pnginfo}}
    answer = browser.server.http.post(f"{browser.server.url}/prompt", json.dumps(body))  # Python's JSON, with its NaN
    frame, _ = follow(browser, answer.json()["prompt_id"])
    told = carried(with_metadata(frame)[1])
    assert told["prompt"]["1"]["is_changed"] == [None]
    assert told["workflow"] == {"nodes": [{"widgets_values": [None, None, None, 1e300, 0.1, 3]}]}
    assert told["more"] == {"deep": [[None]]}


def test_what_json_cannot_hold_is_null():
    value = {"a": b"digest", "b": {1}, "c": (1, math.nan)}
    assert graph_metadata.strict_json(value) == '{"a": null, "b": null, "c": [1, null]}'


def test_a_frame_is_unpacked_as_packed():
    """A frame is unpacked as it was packed; other events are None."""

    metadata, message = {"prompt_id": "größer", "value": None}, struct.pack(">I", 4)
    message += frame_codec.pack({"prompt_id": "größer", "value": math.nan}, b"\xff\xd8")
    assert frame_codec.unpack(message) == with_metadata(message) == (metadata, b"\xff\xd8")
    assert frame_codec.unpack(struct.pack(">I", 1) + message[4:]) is None
    assert frame_codec.unpack(b"") is None


def test_the_apis_client_is_an_image_sink():
    """The API's client is an image sink, and a websocket is none."""

    server = SimpleNamespace(sockets={"websocket": web.WebSocketResponse()}, sockets_metadata={})
    client = HostClient(server)
    assert image_sink(server, client.id) is client
    assert image_sink(server, "websocket") is None
    assert image_sink(server, "nobody") is None


def test_a_workflow_too_long_for_a_jpeg_is_left_out_and_logged(server, client, noise):
    _, (frame, _) = run(client, graph(), workflow={"notes": "x" * 70_000}, short=1)
    exif = Image.open(io.BytesIO(plain(frame)[1])).getexif()
    assert exif[0x0110].startswith("prompt:{")
    assert dict(exif).get(0x010F) is None
    assert exif[0x010E] == "short:1"
    assert "the workflow is too long for a JPEG and was left out" in server.log.read_text(encoding="utf-8")


def test_alpha_is_kept_or_refused(browser, noise):
    prompt = graph("png")
    prompt["4"] = {"class_type": "SolidMask", "inputs": {"value": 0.4, "width": 64, "height": 48}}
    prompt["5"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["1", 0], "alpha": ["4", 0]}}
    prompt[SEND]["inputs"]["images"] = ["5", 0]
    for format in ("png", "webp"):
        prompt[SEND]["inputs"]["format"] = format
        _, (frame,) = run(browser, prompt)
        drawn = opened(with_metadata(frame)[1])
        assert drawn.shape == (48, 64, 4)
        assert (drawn[..., 3] == 153).all()  # JoinImageWithAlpha inverts the mask
    prompt[SEND]["inputs"]["format"] = "jpeg"
    with pytest.raises(comfyui.PromptError, match="images has an alpha channel, which JPEG can't hold: choose png or webp"):
        run(browser, prompt)


@pytest.mark.parametrize(
    ("shape", "format", "message"),
    [
        ((1, 8, 8, 1), "png", "images has 1 channels; only 3"),
        ((1, 0, 8, 3), "png", "images is empty: 8x0"),
        ((1, 1, 65501, 3), "jpeg", "images is 65501x1, and a jpeg side has at most 65500 pixels: choose png"),
        ((1, 16384, 1, 3), "webp", "images is 1x16384, and a webp side has at most 16383 pixels: choose png"),
    ],
)
def test_what_no_file_can_hold_is_refused(shape, format, message):
    with pytest.raises(ValueError, match=message):
        encode.check(torch.zeros(shape), format)


@pytest.mark.parametrize(("width", "format"), [(65500, "jpeg"), (16383, "webp"), (70_000, "png")])
def test_the_longest_pictures_are_written(width, format):
    images = torch.zeros(1, 1, width, 3)
    encode.check(images, format)
    file = encode.encode(images[0], format, 95, {})
    assert Image.open(io.BytesIO(file.data)).size == (width, 1) == (file.width, file.height)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    picture = torch.rand(70, 5, 3)
    picture[66, 4, 2] = value
    with pytest.raises(ValueError, match="images holds NaN or infinity"):
        encode.to_uint8(picture)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pixels_are_rounded_as_diffusers_does(dtype):
    from diffusers.image_processor import VaeImageProcessor

    picture = (torch.rand(70, 33, 3) * 1.2 - 0.1).to(dtype)
    picture[0, 0] = torch.tensor([0.5 / 255, 1.5 / 255, 2.5 / 255])
    turned = picture.permute(1, 0, 2)  # not contiguous
    for view in (picture, turned):
        expected = VaeImageProcessor.numpy_to_pil(view.float().clamp(0, 1).numpy())[0]
        assert (encode.to_uint8(view) == np.asarray(expected)).all()


def test_a_picture_is_fetched_by_the_id_in_history(client, noise):
    prompt_id, frames = run(client, graph())
    for entry, frame in zip(client.outputs(prompt_id)[SEND]["sent"], frames, strict=True):
        response = client.server.get(entry["url"])
        assert response.content == plain(frame)[1]
        assert response.headers["Content-Type"] == "image/jpeg"
        assert response.headers["Cache-Control"] == "private"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert entry["url"].endswith(entry["id"])


def test_the_65th_picture_ends_the_first(client):
    """The 65th picture ends the first (410), and an unknown id is 404."""
    prompt = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 65, "color": 0}}}
    prompt[SEND] = {"class_type": "VegaSendImage", "inputs": {"images": ["1", 0], "format": "jpeg", "quality": 95}}
    prompt_id, frames = run(client, prompt)
    assert len(frames) == 65
    urls = [entry["url"] for entry in client.outputs(prompt_id)[SEND]["sent"]]
    http, address = client.server.http, client.server.url
    gone = http.get(address + urls[0])
    assert (gone.status_code, gone.text) == (410, "This picture is gone: the last 64 are kept, for 10 minutes.")
    assert {http.get(address + url).status_code for url in urls[1:]} == {200}
    for unknown in ("never", urls[0].rpartition("/")[2][:-1] + "_", urls[1].rpartition("/")[2][1:], "é.é"):
        assert http.get(f"{address}/vega/sent/{unknown}").status_code == 404


def test_a_picture_ends_by_age(monkeypatch):
    monkeypatch.setattr(store, "MAX_AGE_SECONDS", 0)

    async def status() -> int:
        image_store, app = store.ImageStore(), web.Application()
        app.router.add_get(store.ROUTE + "{id}", image_store.respond)
        async with TestClient(TestServer(app)) as client:
            entry = image_store.put(encode.EncodedImage("png", 1, 1, b""))
            await asyncio.sleep(0.01)
            return (await client.get(entry["url"])).status

    assert asyncio.run(status()) == 410


def test_without_a_client_pictures_wait_to_be_fetched(server, noise):
    prompt_id = server.post("/prompt", {"prompt": graph("webp")}).json()["prompt_id"]
    (entry, _) = finished(server, prompt_id)["outputs"][SEND]["sent"]
    assert Image.open(io.BytesIO(server.get(entry["url"]).content)).format == "WEBP"


def test_a_client_that_has_gone_away_is_no_error(server, noise):
    with server.connect() as client:
        pass
    entry = finished(server, client.queue(graph("webp")))
    assert entry["status"]["status_str"] == "success"
    assert len(entry["outputs"][SEND]["sent"]) == 2


def many(server, copies: int, format: str) -> dict:
    """Pictures of 2 MiB or more each, sent."""
    array = np.random.default_rng(5).integers(0, 256, (1024, 1024, 3), np.uint8)
    Image.fromarray(array).save(server.base / "input" / "noise.png", compress_level=0)
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "noise.png"}},
        "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": copies}},
        SEND: {"class_type": "VegaSendImage", "inputs": {"images": ["2", 0], "format": format, "quality": 100}},
    }


def test_an_interrupt_while_encoding_sends_nothing(server, client):
    prompt_id = client.queue(many(server, 16, "png"))
    seen = []
    with pytest.raises(comfyui.PromptError, match="interrupted"):
        for kind, data in client.events(prompt_id):
            seen.append(kind)
            if kind == "executing" and data["node"] == SEND:
                server.post("/interrupt", {})
    assert "preview" not in seen


def test_a_client_that_does_not_read_is_left_out(server, client, noise):
    """A client that does not read stalls nobody, and is left out.

    Two prompts make 100 MiB of pictures; what waits for the silent client stays near 32 MiB, and is whole.
    """
    client.socket.settimeout(60)
    with server.connect() as silent:
        prompt = many(server, 24, "jpeg")
        for _ in range(2):
            prompt_id = silent.queue(prompt)
            assert len(run(client, graph())[1]) == 2
        assert "a client reads too slowly" in server.log.read_text(encoding="utf-8")
        waiting = []
        while not waiting or waiting[-1] != {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}:
            message = silent.socket.recv()
            waiting.append(message if isinstance(message, bytes) else json.loads(message))
    frames = [message for message in waiting if isinstance(message, bytes)]
    assert 8 < sum(map(len, frames)) / 2**20 < 64
    assert {opened(plain(frame)[1]).shape for frame in frames} == {(1024, 1024, 3)}


@contextlib.contextmanager
def held_up(server):
    """While another client leaves more unread than the limit, the host sends nobody anything; at the end it goes away."""
    size = 2**24
    with server.connect() as slow:
        prompt = {"text": {"class_type": "PrimitiveString", "inputs": {"value": "x" * size}}}
        for k in range(WRITE_BUFFER_LIMIT_BYTES // size + 1):
            prompt[str(k)] = {"class_type": "PreviewAny", "inputs": {"source": ["text", 0]}}
        slow.queue(prompt)
        while server.get("/prompt").json()["exec_info"]["queue_remaining"]:
            time.sleep(0.1)
        yield
        slow.socket.shutdown()


def test_pictures_come_after_the_hosts_messages(server, client, noise):
    """Pictures come after the messages that the host still holds."""
    with held_up(server):
        prompt_id = client.queue(graph())
        time.sleep(1)  # by now the pictures are there, and wait
    assert len(follow(client, prompt_id)) == 2


@pytest.mark.soak
def test_a_held_up_host_finishes_without_sending(server, client, noise):
    """A host that is held up finishes the prompt without sending."""
    with held_up(server):
        prompt_id = client.queue(graph())
        (entry, _) = finished(server, prompt_id)["outputs"][SEND]["sent"]
        assert server.get(entry["url"]).status_code == 200
    assert follow(client, prompt_id) == []
    assert "the server's messages are held up" in server.log.read_text(encoding="utf-8")


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
