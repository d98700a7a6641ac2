"""Send Image (Vega) when sending stops: interrupts, clients that don't read or are gone, and a host that is held up."""

import contextlib
import json
import time

import numpy as np
import pytest
from PIL import Image
from sent_images import SEND, finished, follow, graph, opened, plain, run
from vega_pack.images.frames import WRITE_BUFFER_LIMIT_BYTES

from dev import comfyui


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
