"""Send Image (Vega) on the running server: the frames that each kind of client gets."""

import json
import math
import struct
from types import SimpleNamespace

import graphs
import numpy as np
import pytest
from aiohttp import web
from comfy_api.v0_0_2 import io as io_
from sent_images import FORMATS, SEND, check_picture, finished, graph, opened, plain, run, with_metadata
from vega_pack.api.host_client import HostClient
from vega_pack.images import frame_codec
from vega_pack.images.sink import image_sink

from dev import comfyui, host


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_a_plain_client_gets_every_picture_in_order(client, noise, format):
    prompt_id, frames = run(client, graph(format))
    assert [plain(f)[0] for f in frames] == [format, format]
    for frame, array in zip(frames, noise.values(), strict=True):
        check_picture(plain(frame)[1], format, array)
    entries = client.outputs(prompt_id)[SEND]["sent"]
    assert [(e["format"], e["width"], e["height"]) for e in entries] == [(format, 64, 48)] * 2


@pytest.mark.parametrize("format", FORMATS)
def test_metadata_frames_bring_every_picture_in_order(metadata_client, noise, format):
    """A client with metadata frames gets every picture, in order."""
    prompt_id, frames = run(metadata_client, graph(format))
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


def test_pictures_of_different_sizes_keep_their_order(metadata_client, noise):
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
    _, frames = run(metadata_client, prompt)
    assert [with_metadata(f)[0]["batch_index"] for f in frames] == [0, 1]
    assert [opened(with_metadata(f)[1]).shape for f in frames] == [(480, 640, 3), (48, 64, 3)]


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
