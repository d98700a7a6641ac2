"""Live: frames over /vega/live into a graph, the newest first, and its pictures back."""

import numpy as np
from live_sockets import (
    A_NAME,
    LiveSocket,
    frame,
    graph,
    in_base64,
    level,
    opened,
    plain_graph,
)

PLAIN_FRAMES = 200  # as fast as they can be sent


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
    assert message["left_out"] == 0, "the one before it had its answer"


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
