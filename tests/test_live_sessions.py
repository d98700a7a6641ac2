"""Live: what goes wrong with a frame, a graph or a reader, and what comes next."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import websocket
from live_sockets import (
    A_NAME,
    ANSWER_SECONDS,
    BROKEN,
    FILL,
    LiveSocket,
    frame,
    graph,
    in_base64,
    interrupt,
    level,
    plain_graph,
    slow_graph,
    wait_until,
)


def next_while_interrupted(server, live) -> dict:
    """What comes of an interrupt. A client that does not read is not drawn for."""
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(live.next, "picture", "same", "interrupted", "error")
        interrupt(server)
        return reading.result()[0]


def test_a_bad_frame_is_not_what_the_next_is_compared_with(live):
    """With a threshold: a damaged frame is refused, the first or a later one, and the good ones around it are drawn."""
    live.prompt(plain_graph(threshold=0.02))
    for file, expected in ((BROKEN, "error"), (frame(100), "picture"), (BROKEN, "error"), (frame(101), "same")):
        number = live.frame(file)
        message, _ = live.next("picture", "same", "error")
        assert (message["type"], message["frame"]) == (expected, number)


def test_an_interrupted_frame_is_drawn_when_it_comes_again(server, live):
    """Also over a still scene with a threshold; and what another prompt drew of it does not count."""
    live.prompt(slow_graph(threshold=0.02))
    for prompt in (None, None, slow_graph(threshold=0.02)):
        if prompt:
            live.prompt(plain_graph(threshold=0.02))
            assert live.next("picture", "same")[0]["type"] == "picture"
            live.prompt(prompt)
            assert next_while_interrupted(server, live)["type"] == "interrupted"
        number = live.frame(frame(200))
        assert next_while_interrupted(server, live) == {"type": "interrupted", "frame": number}


def test_what_goes_wrong_names_the_frame_that_was_taken(server, live, client):
    """Which is the newest at the prompt's start, and not when it was queued behind another."""
    for prompt, file, kind in ((plain_graph(), BROKEN, "error"), (slow_graph(), frame(2), "interrupted")):
        before = client.queue(slow_graph(picture=in_base64(frame(1))))
        live.prompt(prompt)
        live.frame(frame(3))
        wait_until(lambda: server.get("/queue").json()["queue_pending"])
        number = live.frame(file)
        interrupt(server, before)
        if kind == "interrupted":
            interrupt(server)
        message, _ = live.next("error", "interrupted", "picture")
        assert (message["type"], message["frame"]) == (kind, number)


def test_a_frame_that_takes_long_to_look_at_holds_up_nobody(server, live):
    """Others draw before its header is read."""
    live.prompt(plain_graph())
    live.frame(frame(1))
    live.next("picture")
    live.frame(FILL[:2] + FILL[2:] * 3)
    with LiveSocket(server) as other:
        other.prompt(plain_graph())
        other.frame(frame(77))
        assert level(other.next("picture")[1]) == 77
        live.socket.settimeout(0.01)
        with pytest.raises(websocket.WebSocketTimeoutException):
            live.next("error", "picture")
    live.socket.settimeout(ANSWER_SECONDS)
    assert live.next("error", "picture")[0]["type"] == "error"


def test_a_graph_goes_with_who_brought_it(server):
    """The others of its name are told, and may bring theirs."""
    with LiveSocket(server, A_NAME) as viewer:
        with LiveSocket(server, A_NAME) as owner:
            owner.prompt(plain_graph())
            owner.frame(frame(1))
            assert level(viewer.next("picture")[1]) == 1
        assert "Waiting for a prompt" in viewer.next("waiting", "picture")[0]["message"]
        viewer.prompt(plain_graph())
        assert level(viewer.next("picture")[1]) == 1


def test_a_refused_graph_ends_the_one_before_it(live):
    """No picture comes that its sender takes for one of the new graph."""
    live.prompt(plain_graph())
    live.frame(frame(1))
    live.next("picture")
    live.prompt({"8": plain_graph()["8"]})
    assert live.next("error", "picture")[0]["type"] == "error"
    live.frame(frame(2))
    live.prompt(graph())
    message, file = live.next("picture")
    assert message["frame"] == 2 and level(file) != 2


def test_a_message_that_is_too_large_ends_the_connection(live):
    """Where only its head came: else the code may be lost in what the server does not read. 8 MiB themselves are taken."""
    live.frame(b"\0" * 2**23)
    assert "no PNG" in live.next("error")[0]["message"]
    live.socket.sock.sendall(b"\x82\xff" + (2**23 + 1).to_bytes(8, "big"))
    assert int.from_bytes(live.socket.recv_data()[1][:2], "big") == 1009


def test_nothing_is_compressed_twice(server):
    """Whatever a browser offers: its messages are images."""
    offered = "permessage-deflate; client_max_window_bits"
    with LiveSocket(server, header=[f"Sec-WebSocket-Extensions: {offered}"]) as socket:
        assert "sec-websocket-extensions" not in socket.socket.headers


def test_a_slow_reader_sees_the_newest_picture(server):
    """What it had begun to get, then what is newest when it reads again: no backlog anywhere, and the last is not lost."""
    with LiveSocket(server, A_NAME) as fast, LiveSocket(server, A_NAME) as slow:
        fast.prompt(plain_graph())
        for shade in range(1, 13):
            fast.frame(frame(shade))
            assert level(fast.next("picture")[1]) == shade
        seen = [level(slow.next("picture")[1])]
        while seen[-1] != 12:
            seen.append(level(slow.next("picture")[1]))
        assert len(seen) <= 2
        fast.frame(BROKEN)
        assert slow.next("error")[0]["frame"] is None
        fast.frame(frame(13))
        assert level(slow.next("picture")[1]) == 13


@pytest.mark.parametrize("when", ["at once", "while it runs"])
def test_stop_leaves_nothing_in_history(server, client, when):
    """Nor does a connection that closes in the middle of a picture: what it interrupts is forgotten, too."""
    client.run(graph(picture=in_base64(frame(1))))  # the models are loaded
    before = server.get("/history").json().keys()
    for shade in range(3):
        with LiveSocket(server) as socket:
            socket.prompt(slow_graph())
            socket.frame(frame(shade))
            if when == "while it runs":
                wait_until(lambda: server.get("/queue").json()["queue_running"])
    wait_until(lambda: not any(server.get("/queue").json().values()))
    client.run(graph(picture=in_base64(frame(2))))  # after it the events of what ran before are through
    assert len(server.get("/history").json().keys() - before) == 1
