"""Clients of the HTTP API at the same time, clients that leave or are slow, and others who use the host's queue."""

import concurrent.futures
import contextlib
import json
import re
import socket
import threading

import graphs
from api_calls import BASE, PROMPT, RT, long, post, queue, send_and_leave, wait_for


@contextlib.contextmanager
def in_a_thread(call, *args, **kwargs):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield pool.submit(call, *args, **kwargs)


def test_concurrent_clients_get_their_own_pictures(server):
    sides = {"img_width": 128, "img_height": 128}
    request = {seed: dict(prompt=f"{PROMPT}, {'snow' if seed % 2 else 'sea'}", seed=seed, **sides) for seed in range(8)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: post(server, **body).content, request.values()))
    alone = [post(server, **body).content for body in request.values()]
    assert together == alone
    assert len(set(alone)) == 8


def test_a_client_that_leaves_is_drawn_no_further(server):
    """A picture whose client has gone away is interrupted.

    PromptQueue.interrupt_if_running; before ComfyUI had it (0.24.1), what the host's own /interrupt does.
    """
    before = server.log.read_text(encoding="utf-8").count("Processing interrupted")
    with send_and_leave(server, prompt=PROMPT, num_inference_steps=100, samples=4):
        wait_for(lambda: queue(server)[0])
    wait_for(lambda: queue(server) == [[], []], seconds=5)
    assert server.log.read_text(encoding="utf-8").count("Processing interrupted") == before + 1


def test_a_client_that_leaves_the_line_is_not_drawn(server):
    """A waiting request whose client has gone away is not drawn, and the one before it is."""
    with in_a_thread(long, server, seed=1) as first:
        wait_for(lambda: queue(server)[0])
        with send_and_leave(server, prompt="nobody waits for this", num_inference_steps=100):
            wait_for(lambda: queue(server)[1])
        wait_for(lambda: not queue(server)[1], seconds=5)
        assert not first.done()
        assert first.result().status_code == 200


def executed_prompts(server) -> int:
    """How many prompts the host has executed: it logs each after the answer, but before it takes the next."""
    wait_for(lambda: queue(server) == [[], []])
    with send_and_leave(server, prompt=PROMPT, num_inference_steps=100):
        wait_for(lambda: queue(server)[0])
        count = server.log.read_text(encoding="utf-8").count("Prompt executed")
    wait_for(lambda: queue(server) == [[], []])
    return count


def test_waiting_requests_are_one_prompt(server):
    """Requests that wait together are one prompt, and a client that leaves takes only its own out of it."""
    alone = [post(server, prompt=f"{PROMPT}, {k} stars", seed=2**64 - k).content for k in range(1, 4)]
    before = executed_prompts(server) + 1  # and the one that counting took
    with in_a_thread(long, server, seed=8) as first, concurrent.futures.ThreadPoolExecutor(3) as pool:
        wait_for(lambda: queue(server)[0])
        with in_a_thread(long, server, seed=9, num_inference_steps=3):  # the other prompt that the host takes
            wait_for(lambda: queue(server)[1])
            with send_and_leave(server, RT, prompt="nobody waits for this", seed=5):
                together = [pool.submit(post, server, prompt=f"{PROMPT}, {k} stars", seed=2**64 - k) for k in range(1, 4)]
                wait_for(first.done)
            assert [answer.result().content for answer in together] == alone
    assert executed_prompts(server) == before + 3


def test_what_somebody_else_interrupts_or_clears_is_drawn_again(server):
    expected = post(server, BASE, prompt=PROMPT, num_inference_steps=30, img_width=128, img_height=128, seed=4).content
    with in_a_thread(long, server, seed=9) as first:
        wait_for(lambda: queue(server)[0])
        with in_a_thread(
            post,
            server,
            BASE,
            prompt=PROMPT,
            num_inference_steps=30,
            img_width=128,
            img_height=128,
            seed=4,
            guidance_scale=9,
        ) as second:
            wait_for(lambda: queue(server)[1])
            server.post("/queue", {"clear": True})
            server.post("/interrupt", {})
            assert first.result().status_code == 200
            assert second.result().content == expected


def test_a_persons_graph_comes_in_between(server, client):
    """It waits for the two requests that the host has, and not for those that are queued."""
    ended = []

    def draw(seed):
        long(server, seed=seed, num_inference_steps=20)
        ended.append(seed)

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(queue(server)))
    client.run(graphs.text_to_image(VegaLCMSampler__seed=77))
    assert len(ended) <= 3
    for thread in threads:
        thread.join()
    assert len(ended) == 6


def test_nothing_of_a_request_stays_with_the_host(server):
    before = server.get("/history").json().keys()
    post(server, prompt="a secret wish")
    assert server.get("/history").json().keys() == before
    assert "a secret wish" not in server.log.read_text(encoding="utf-8")


def test_the_queue_tells_nobody_how_to_get_a_requests_events(server):
    """Who opens the websocket under the client_id of a prompt gets its events in the other's place."""
    with in_a_thread(long, server, seed=2):
        wait_for(lambda: queue(server)[0])
        told = server.get("/queue").text
    assert PROMPT in told
    assert "client_id" not in told
    assert not re.search(r"\b[0-9a-f]{32}\b", told)


def test_a_slow_reader_holds_nobody_up(server):
    """A client that reads slowly delays no other, and gets its whole picture."""
    body = dict(prompt=PROMPT, seed=3, num_inference_steps=2, guidance_scale=1, samples=4, format="png", img_width=256)
    expected = post(server, BASE, **body).content
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", server.port))
        content = json.dumps(body).encode()
        head = f"POST /v1/{BASE} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        slow.sendall(head.encode() + content)
        wait_for(lambda: queue(server) != [[], []])
        wait_for(lambda: queue(server) == [[], []])
        assert post(server, prompt=PROMPT).status_code == 200
        assert b"".join(iter(lambda: slow.recv(2**12), b"")).endswith(b"\r\n\r\n" + expected)
