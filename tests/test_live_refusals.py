"""What /vega/live refuses, and what strangers and crowds may not do to it: one clear sentence, and it serves on."""

import io
import json
import time

import numpy as np
import psutil
import pytest
import websocket
from live_sockets import (
    BROKEN,
    FILL,
    LiveSocket,
    frame,
    graph,
    level,
    plain_graph,
    wait_until,
)
from PIL import Image

HUGE = io.BytesIO()
Image.new("1", (10000, 10000)).save(HUGE, "png")
BAD_FRAMES = {
    "fill bytes": (FILL, "image is no PNG, JPEG or WEBP file."),
    "no picture": (b"\0" * 1000, "image is no PNG, JPEG or WEBP file."),
    "100 megapixels": (HUGE.getvalue(), "image has 10000 x 10000 pixels; at most 16777216 are taken: scale it down."),
    "cut off": (BROKEN, "image is damaged."),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_bad_frame_is_refused_and_the_next_drawn(live, case):
    file, said = BAD_FRAMES[case]
    live.prompt(plain_graph())
    live.frame(file)
    message, _ = live.next("error", "picture")
    assert message["type"] == "error" and message["frame"] == 1
    assert said in message["message"]
    live.frame(frame(44))
    assert live.next("picture")[0]["frame"] == 2


BAD_TEXTS = {
    "no JSON": "hello",
    "a list": "[]",
    "another type": '{"type": "paint"}',
    "no graph": json.dumps({"type": "prompt", "prompt": {"1": 2}}),
    "no name": json.dumps({"type": "prompt", "prompt": {"1": {"class_type": [], "inputs": {}}}}),
    "no Live Image": json.dumps({"type": "prompt", "prompt": {"8": plain_graph()["8"]}}),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_bad_message_is_refused_in_a_sentence(live, case):
    live.socket.send(BAD_TEXTS[case])
    message, _ = live.receive()
    assert message["type"] == "error"
    assert message["message"].endswith(".")


def test_a_graph_that_is_not_valid_is_refused_once(live):
    prompt = graph()
    prompt["6"]["inputs"]["steps"] = 1000
    live.prompt(prompt)
    live.frame(frame(1))
    assert "steps" in live.next("error", "picture")[0]["message"]
    live.frame(frame(2))
    live.prompt(plain_graph())
    assert live.next("error", "picture")[0]["frame"] == 2


def test_a_plain_run_needs_a_picture(client):
    from dev.comfyui import PromptError

    with pytest.raises(PromptError, match="There is no picture yet"):
        client.run(plain_graph())


REFUSED = {
    "another site": ({"origin": "https://example.com"}, 403),
    "another host": ({"host": "example.com", "suppress_origin": True}, 403),
    "through a proxy": ({"header": ["X-Forwarded-For: 1.2.3.4"]}, 403),
}


@pytest.mark.parametrize("case", REFUSED)
def test_strangers_are_refused(server, case):
    options, status = REFUSED[case]
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        LiveSocket(server, **options)
    assert refused.value.status_code == status


def test_another_computer_is_told_of_keys(server):
    """Not asked for one: where none is configured none could be right."""
    told = server.http.get(f"{server.url}/vega/live", headers={"Host": "192.0.2.2:8188"}, timeout=60)
    assert told.status_code == 403
    assert "set VEGA_API_KEYS to a key of yours" in told.json()["error"]


def test_a_short_name_is_refused(server):
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        LiveSocket(server, "short")
    assert b"16 to 64" in refused.value.resp_body


def test_a_plain_request_is_told_what_this_is(server):
    answer = server.http.get(f"{server.url}/vega/live", timeout=60)
    assert answer.status_code == 426
    assert "docs/live.md" in answer.json()["error"]


def test_only_so_many_connections(server):
    """One more is refused, and has room when another has gone."""
    sockets = [LiveSocket(server) for _ in range(32)]
    try:
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            LiveSocket(server)
        assert b"32 live connections" in refused.value.resp_body
        told = server.http.get(f"{server.url}/vega/live", timeout=60)  # as a page asks, which can't see why
        assert (told.status_code, told.json()["error"]) == (503, json.loads(refused.value.resp_body)["error"])
    finally:
        for socket in sockets:
            socket.socket.close()
    wait_for_room(server)


def wait_for_room(server) -> None:
    def is_room() -> bool:
        try:
            with LiveSocket(server):
                return True
        except websocket.WebSocketBadStatusException:
            return False

    wait_until(is_room)


def test_connections_that_drop_leave_nothing(server):
    """Sockets that vanish without a word, in the middle of a picture, are forgotten."""
    for k in range(100):
        socket = LiveSocket(server)
        if k % 10 == 0:
            socket.prompt(plain_graph())
            socket.frame(frame(k))
        socket.socket.sock.close()
        if k % 20 == 19:
            wait_for_room(server)
    wait_for_room(server)
    assert server.get("/queue").json()["queue_pending"] == []


def test_a_slow_reader_stops_only_itself(server, live):
    """A client that reads nothing gets no backlog, and others go on meanwhile."""
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)).save(noise, "png")
    with LiveSocket(server) as deaf:
        deaf.prompt(plain_graph())
        for _ in range(20):
            deaf.frame(noise.getvalue())
            time.sleep(0.02)
        live.prompt(plain_graph())
        for shade in (1, 2, 3):
            live.frame(frame(shade))
            assert level(live.next("picture")[1]) == shade


def files(server) -> set[str]:
    return {str(path) for folder in ("input", "output", "temp") for path in (server.base / folder).rglob("*")}


def test_nothing_is_kept_of_live_pictures(server, live):
    """Neither a file nor an entry in /history."""
    live.prompt(plain_graph())
    before = len(server.get("/history").json()), files(server)
    live.frame(frame(9))
    live.next("picture")
    assert (len(server.get("/history").json()), files(server)) == before


def memory_mib(server) -> int:
    """What the server's process has in memory."""
    return psutil.Process(server.process.pid).memory_info().rss // 2**20


@pytest.mark.soak
def test_ten_thousand_connections_leave_nothing(server, record_property):
    """Opened and dropped, one in a hundred in the middle of a picture; the server draws on, in the memory that it had."""
    with LiveSocket(server) as socket:
        socket.prompt(plain_graph())
        socket.frame(frame(1))
        socket.next("picture")
    wait_for_room(server)
    before, history, refused = memory_mib(server), server.get("/history").json(), 0
    for k in range(10_000):
        try:
            socket = LiveSocket(server)
        except websocket.WebSocketBadStatusException as error:  # so many at once that there is no room
            assert error.status_code == 503 and b"32 live connections" in error.resp_body
            refused += 1
            time.sleep(0.05)
            continue
        if k % 100 == 0:
            socket.prompt(plain_graph())
            socket.frame(frame(k % 256))
        socket.socket.sock.close()
    wait_for_room(server)
    after = memory_mib(server)
    record_property("refused", refused)
    record_property("MiB before and after", f"{before} {after}")
    assert after - before < 50
    with LiveSocket(server) as socket:
        socket.prompt(plain_graph())
        socket.frame(frame(99))
        assert level(socket.next("picture")[1]) == 99
    assert not any(server.get("/queue").json().values())
    assert server.get("/history").json() == history


@pytest.mark.soak
def test_a_thousand_frames_a_second_for_a_minute(server, live, record_property):
    """A flood is left out, the newest is drawn, and memory stays."""
    live.prompt(plain_graph())
    file = frame(50)
    live.frame(file)
    live.next("picture")
    before, ends = memory_mib(server), time.monotonic() + 60
    while time.monotonic() < ends:
        began = time.monotonic()
        for _ in range(100):
            live.frame(file)
        while live.next("picture")[0]["frame"] < live.sent:
            pass
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))
    record_property("frames", live.sent)
    record_property("MiB before and after", f"{before} {memory_mib(server)}")
    assert memory_mib(server) - before < 50
