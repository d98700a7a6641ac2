"""Live: frames over /vega/live into a graph, the newest first, and its pictures back."""

import io
import json
import select
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import websocket
from live_sockets import LiveSocket, frame, graph, in_base64, opened, plain_graph, slow_graph
from PIL import Image

PLAIN_FRAMES = 200  # as fast as they can be sent
BROKEN = frame(5)[:80]
A_NAME = "a-name-that-nobody-guesses"


@pytest.fixture
def live(server):
    with LiveSocket(server) as socket:
        assert socket.receive()[0]["type"] == "waiting"
        yield socket


def wait_until(question) -> None:
    """Until its answer is something true."""
    deadline = time.monotonic() + 60
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interrupt(server, prompt_id: str | None = None) -> None:
    """What the button does, once a prompt runs; of one alone where it is named."""

    def running() -> list[str]:
        return [item[1] for item in server.get("/queue").json()["queue_running"]]

    wait_until(running)
    prompt_id = prompt_id or running()[0]
    while prompt_id in running():  # a prompt forgets what came before its start
        server.post("/interrupt", {"prompt_id": prompt_id}).raise_for_status()


def next_while_interrupted(server, live) -> dict:
    """What comes of an interrupt. A client that does not read is not drawn for."""
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(live.next, "picture", "same", "interrupted", "error")
        interrupt(server)
        return reading.result()[0]


def level(file: bytes) -> int:
    return opened(file).getpixel((60, 60))[0]


def test_each_frame_gives_its_picture(live):
    """The picture is of the frame whose number comes back with it, and nothing stands in a folder."""
    live.prompt(plain_graph())
    for shade in (10, 90, 200):
        number = live.frame(frame(shade))
        message, file = live.next("picture")
        assert message["frame"] == number
        assert level(file) == shade
        assert message["age_ms"] >= 0


def test_the_newest_frame_is_drawn_and_the_rest_left_out(live):
    live.prompt(plain_graph())
    for k in range(PLAIN_FRAMES):
        last = live.frame(frame(k))
    numbers, left_out = [], 0
    while not numbers or numbers[-1] < last:
        message, file = live.next("picture")
        assert level(file) == (message["frame"] - 1) % 256
        numbers.append(message["frame"])
        left_out += message["left_out"]
    assert numbers == sorted(set(numbers))
    assert left_out + len(numbers) == last


def test_another_prompt_draws_the_same_frame_anew(live):
    live.prompt(graph())
    live.frame(frame(100))
    _, day = live.next("picture")
    live.prompt(graph(text="a starry night"))
    message, night = live.next("picture")
    assert message["frame"] == 1
    assert day != night


def test_feedback_and_threshold_0_change_no_byte(live, client):
    """A live picture is what the graph draws of the same picture in base64, without Live Latent."""
    live.prompt(graph(feedback=0.0))
    for shade in (60, 180):
        live.frame(frame(shade))
        _, file = live.next("picture")
        outputs = client.run(graph(picture=in_base64(frame(shade))))
        sent = client.server.get(outputs["8"]["sent"][0]["url"]).content
        assert opened(file).tobytes() == opened(sent).tobytes()


def blended(one: bytes, other: bytes) -> dict:
    """The graph with core's own blend of two frames' latents, half of each."""
    prompt = graph(picture=in_base64(one))
    prompt["10"] = {"class_type": "VegaReceiveImage", "inputs": {"image": in_base64(other)}}
    prompt["11"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["1", 2]}}
    both = {"samples1": ["5", 0], "samples2": ["11", 0], "blend_factor": 0.5}
    prompt["12"] = {"class_type": "LatentBlend", "inputs": both}
    prompt["6"]["inputs"]["latent_image"] = ["12", 0]
    return prompt


def test_feedback_blends_the_last_latent_in(live, client):
    """At 0.5 it is what core's LatentBlend makes of both frames; at 1 the first picture stands still."""
    live.prompt(graph(feedback=0.5))
    files = [(live.frame(frame(shade)), live.next("picture")[1])[1] for shade in (60, 180)]
    sent = client.run(blended(frame(180), frame(60)))["8"]["sent"][0]["url"]
    pictures = [opened(files[1]), opened(client.server.get(sent).content), opened(files[0])]
    half, oracle, first = (np.asarray(picture, dtype=int) for picture in pictures)
    assert np.abs(half - oracle).max() <= 1
    assert np.abs(half - first).max() > 1
    live.prompt(graph(feedback=1.0))
    still = live.next("picture")[1]
    live.frame(frame(90))
    assert live.next("picture")[1] == still


def test_frames_within_the_threshold_draw_nothing(live):
    live.prompt(plain_graph(threshold=0.02))
    live.frame(frame(100))
    assert live.next("picture")[0]["frame"] == 1
    live.frame(frame(102))  # 0.008 away
    message, _ = live.next("picture", "same")
    assert message == {"type": "same", "frame": 2}
    live.frame(frame(110))
    message, file = live.next("picture", "same")
    assert (message["type"], message["frame"], level(file)) == ("picture", 3, 110)


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


def test_two_clients_and_a_graph_get_their_own(server, live, client):
    """Each of two live clients gets its own pictures, and a prompt in the queue comes in between."""
    with LiveSocket(server) as other:
        for socket in (live, other):
            socket.prompt(plain_graph())
        for k in range(5):
            live.frame(frame(10 + k))
            other.frame(frame(200 + k))
            prompt_id = client.queue(graph(picture=in_base64(frame(50 + k))))
            assert level(live.next("picture")[1]) == 10 + k
            assert level(other.next("picture")[1]) == 200 + k
            assert [kind for kind, _ in client.events(prompt_id)][-1] == "executing"


def test_those_of_one_name_share_a_picture(server):
    """One brings the graph, another the frames, a third looks on: all get the picture, and only the sender its number."""
    with LiveSocket(server, A_NAME) as page, LiveSocket(server, A_NAME) as camera, LiveSocket(server, A_NAME) as viewer:
        page.prompt(plain_graph())
        camera.frame(frame(77))
        for socket, number in ((page, None), (camera, 1), (viewer, None)):
            message, file = socket.next("picture")
            assert (message["frame"], level(file)) == (number, 77)


HUGE = io.BytesIO()
Image.new("1", (10000, 10000)).save(HUGE, "png")
FILL = b"\xff\xd8" + b"\xff" * 2**21  # which is read byte by byte, up to a marker that never comes
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
        assert select.select([live.socket.sock], [], [], 0)[0] == [], "nothing was said of the long one yet"
    assert live.next("error", "picture")[0]["type"] == "error"


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
    live.frame(b"\0" * (8 * 2**20 + 1))
    assert live.socket.recv_data(control_frame=False)[1][:2] == (1009).to_bytes(2, "big")


def test_a_plain_run_needs_a_picture(client):
    from dev.comfyui import PromptError

    with pytest.raises(PromptError, match="There is no picture yet"):
        client.run(plain_graph())


REFUSED = {
    "another site": ({"origin": "https://example.com"}, 403),
    "another host": ({"host": "example.com", "suppress_origin": True}, 401),
    "through a proxy": ({"header": ["X-Forwarded-For: 1.2.3.4"]}, 401),
}


@pytest.mark.parametrize("case", REFUSED)
def test_strangers_are_refused(server, case):
    options, status = REFUSED[case]
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        LiveSocket(server, **options)
    assert refused.value.status_code == status


def test_nothing_is_compressed_twice(server):
    """Whatever a browser offers: its messages are images."""
    offered = "permessage-deflate; client_max_window_bits"
    with LiveSocket(server, header=[f"Sec-WebSocket-Extensions: {offered}"]) as socket:
        assert "sec-websocket-extensions" not in socket.socket.headers


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


def test_a_slow_reader_sees_the_newest_picture(server):
    """What it had begun to get, then what is newest when it reads again: no backlog anywhere, and the last is not lost."""
    with LiveSocket(server, A_NAME) as fast, LiveSocket(server, A_NAME) as slow:
        fast.prompt(plain_graph())
        for shade in range(1, 31):
            fast.frame(frame(shade))
            assert level(fast.next("picture")[1]) == shade
        seen = [level(slow.next("picture")[1])]
        while seen[-1] != 30:
            seen.append(level(slow.next("picture")[1]))
        assert len(seen) <= 2
        fast.frame(BROKEN)
        assert slow.next("error")[0]["frame"] is None
        fast.frame(frame(31))
        assert level(slow.next("picture")[1]) == 31


def files(server) -> set[str]:
    return {str(path) for folder in ("input", "output", "temp") for path in (server.base / folder).rglob("*")}


def test_nothing_is_kept_of_live_pictures(server, live):
    """Neither a file nor an entry in /history."""
    live.prompt(plain_graph())
    before = len(server.get("/history").json()), files(server)
    live.frame(frame(9))
    live.next("picture")
    assert (len(server.get("/history").json()), files(server)) == before


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
    before, refused = memory_mib(server), 0
    for k in range(10_000):
        try:
            socket = LiveSocket(server)
        except websocket.WebSocketBadStatusException:  # so many at once that there is no room
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
