"""The line before the host's queue, with the host's own queue, whose worker stands still where the test wants it to."""

import asyncio

import pytest
from comfy.model_management import processing_interrupted
from server import PromptServer
from vega_pack.api.contract import RealTimeRequest
from vega_pack.api.host_client import HostClient
from vega_pack.api.host_graphs import Picture
from vega_pack.api.line import AGAIN, Line

import nodes

GRAPH = {
    "image": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "preview": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
}


def test_an_interrupt_that_the_host_forgets_comes_again():
    """The host clears it where a prompt begins (execution.py, execute_async): one that comes just before it does nothing."""

    async def scene():
        server = PromptServer(asyncio.get_running_loop())
        client = HostClient(server)
        line = Line(client, lambda pictures: GRAPH, most=1)
        drawing = asyncio.create_task(line.draw([Picture(RealTimeRequest(prompt="a"), seed=0, width=8, height=8)]))
        while not server.prompt_queue.queue:
            await asyncio.sleep(0.01)
        item, number = server.prompt_queue.get()
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        await asyncio.sleep(0.1)
        assert processing_interrupted()
        nodes.interrupt_processing(False)
        await asyncio.sleep(2 * AGAIN)
        assert processing_interrupted()
        server.prompt_queue.task_done(number, {}, status=None)
        await client.send_json({"type": "executing", "data": {"node": None, "prompt_id": item[1]}})
        await asyncio.sleep(0.1)
        nodes.interrupt_processing(False)
        await asyncio.sleep(2 * AGAIN)
        assert not processing_interrupted()
        assert not line.at_the_host

    asyncio.run(scene())
