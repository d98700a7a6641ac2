"""The Python client when connections break, the server dies or is not there, and when its work is given up."""

import asyncio
import contextlib
import gc
import threading
import time

import pytest
import relay
from api_calls import queue, wait_for
from client_graphs import PROMPT, graph, same

from dev import comfyui
from vega_client import AsyncClient, Client, retry

LONG = {"model": "segmind-vega", "steps": 60}


def queued(server) -> list:
    running, pending = queue(server)
    return running + pending


def test_giving_up_takes_the_work_off_the_server(server):
    async def draw():
        async with AsyncClient(server.url) as client:
            works = [client.generate(PROMPT, seed=1, **LONG), client.queue(graph(5, VegaLCMSampler__steps=50))]
            tasks = [asyncio.create_task(work) for work in works]
            while len(queued(server)) < 2:
                await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(draw())
    wait_for(lambda: not queued(server), seconds=10)


def test_connections_that_break_lose_nothing(server):
    """Cut at every stage: in the queue, while drawing, and over and over."""
    graphs_cut = [graph(seed, VegaLCMSampler__steps=30) for seed in (11, 12)]
    with relay.to(server.port) as network, Client(f"http://127.0.0.1:{network.port}") as client:
        client.queue(graph(10))
        cut, drawn = [], []
        for workflow in graphs_cut:
            thread = threading.Thread(target=lambda workflow=workflow: drawn.extend(client.queue(workflow)))
            thread.start()
            for _ in range(5):
                time.sleep(0.3)
                cut.append(network.disconnect_all())
            thread.join(60)
        assert sum(cut) >= 4
        assert client.generate(PROMPT, seed=2).size == (256, 256)
    server.free()  # what it has drawn, it has not kept
    with Client(server.url) as client:
        for workflow, image in zip(graphs_cut, drawn, strict=True):
            assert same(*client.queue(workflow), image)


@pytest.mark.server
@pytest.mark.soak
def test_a_server_that_dies_and_comes_back_draws_it_after_all(tmp_path, caplog):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(comfyui.serve(tmp_path / "first"))
        network = stack.enter_context(relay.to(first.port))
        client = stack.enter_context(Client(f"http://127.0.0.1:{network.port}"))
        found = []
        thread = threading.Thread(target=lambda: found.extend(client.queue(graph(7, VegaLCMSampler__steps=50))))
        thread.start()
        wait_for(lambda: queued(first))
        first.process.kill()
        network.target = stack.enter_context(comfyui.serve(tmp_path / "second")).port
        thread.join(60)
        (again,) = client.queue(graph(7, VegaLCMSampler__steps=50))
        assert same(found[0], again)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]  # "Task was destroyed" and the like


def test_no_server_is_one_sentence(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_RESPONSE_SECONDS", 2.0)
    nobody = f"http://127.0.0.1:{comfyui.free_port()}"
    with Client(nobody) as client, pytest.raises(ConnectionError, match="Nothing answers at"):
        client.queue({"1": {"class_type": "PreviewImage", "inputs": {}}})
