"""The line before the host's queue, with the host's own queue, whose worker stands still where the test wants it to."""

import asyncio
from collections.abc import Callable

import pytest
from comfy.model_management import processing_interrupted
from server import PromptServer
from vega_pack.api import apart
from vega_pack.api.contract import RealTimeRequest
from vega_pack.api.host_client import HostClient, Interrupted, PromptError
from vega_pack.api.host_graphs import Picture
from vega_pack.api.line import AGAIN, ATTEMPTS, Drawing, Line
from vega_pack.pictures.picture_file import PictureFile

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


Fate = Callable[[list[str]], str]  # of the prompts of a common prompt: "drawn", "failed", "interrupted" or "cleared"


class Scene:
    """The line at the host's queue; the test is the worker, and tells the events that the host tells."""

    def __init__(self):
        self.server = PromptServer(asyncio.get_running_loop())
        self.client = HostClient(self.server)
        self.line = Line(self.client, self.graph_of, most=64)
        self.put: list[list[str]] = []

    def graph_of(self, pictures: list[Picture]) -> dict:
        self.put.append([picture.request.prompt for picture in pictures])
        return GRAPH

    async def draw(self, prompts: list[str], fate: Fate) -> tuple[list[list[str]], list]:
        """Asked for at once: what was drawn together, and what each got."""

        def picture(prompt: str) -> Picture:
            return Picture(RealTimeRequest(prompt=prompt), seed=0, width=8, height=8)

        self.put.clear()
        asked = [asyncio.create_task(self.line.draw([picture(prompt)])) for prompt in prompts]
        answers = asyncio.gather(*asked, return_exceptions=True)
        done = 0
        while not answers.done():
            await asyncio.sleep(0.001)
            if self.server.prompt_queue.queue:
                await self.work(self.put[done], fate(self.put[done]))
                done += 1
        return list(self.put), [answer[0] if isinstance(answer, list) else answer for answer in answers.result()]

    async def work(self, prompts: list[str], fate: str) -> None:
        queue = self.server.prompt_queue
        if fate == "cleared":
            queue.delete_queue_item(lambda item: item is queue.queue[0])
            await self.client.send_json({"type": "status", "data": {}})
            return
        (_, id, *_), number = queue.get()
        await self.tell("execution_start", id)
        if fate == "failed":
            error = {"exception_type": "RuntimeError", "exception_message": "too large", "node_id": "sample"}
            await self.tell("execution_error", id, **error)
        elif fate == "interrupted":
            await self.tell("execution_interrupted", id)
        else:
            self.client.take_pictures([PictureFile("png", 8, 8, p.encode()) for p in prompts], {"prompt_id": id})
        queue.task_done(number, {}, status=None)
        await self.tell("executing", id, node=None)

    async def tell(self, event: str, id: str, **data) -> None:
        await self.client.send_json({"type": event, "data": {"prompt_id": id, **data}})


def sizes(put: list[list[str]]) -> list[int]:
    return [len(prompts) for prompts in put]


EIGHT = list("abcdefgh")
TOGETHER = [1, 1, 4, 2]  # the first two go to the host at once


def test_a_prompt_that_fails_costs_the_others_a_retry():
    """A prompt that fails costs those drawn with it a retry, and later ones nothing."""

    async def scene():
        host = Scene()
        for _ in range(3):
            put, got = await host.draw(
                ["a", "b", "bad", "c", "d", "e"], lambda prompts: "failed" if "bad" in prompts else "drawn"
            )
            assert sizes(put) == [1, 1, 4, 1, 1, 1, 1]
            assert [type(one) for one in got] == [Drawing, Drawing, PromptError, Drawing, Drawing, Drawing]
            assert [one.file.data for one in got if isinstance(one, Drawing)] == [b"a", b"b", b"c", b"d", b"e"]
            put, got = await host.draw(EIGHT, lambda _: "drawn")
            assert sizes(put) == TOGETHER
            assert [one.file.data.decode() for one in got] == EIGHT

    asyncio.run(scene())


def test_what_fails_together_is_drawn_apart(monkeypatch):
    """What fails together again and again is drawn one by one for a while."""

    def too_large(prompts: list[str]) -> str:
        return "failed" if len(prompts) > 1 else "drawn"

    async def scene():
        host = Scene()
        for _ in range(apart.SHOWN):
            put, got = await host.draw(EIGHT[:6], too_large)
            assert sizes(put) == [1, 1, 4, 1, 1, 1, 1]
            assert {type(one) for one in got} == {Drawing}
        put, _ = await host.draw(EIGHT, lambda _: "drawn")
        return sizes(put)

    assert 60 <= apart.SECONDS <= 3600
    assert asyncio.run(scene()) == [1] * 8
    monkeypatch.setattr(apart, "SECONDS", 0)
    assert asyncio.run(scene()) == TOGETHER


def test_who_leaves_before_a_failure_shows_nothing():
    """A request that leaves before the failure says nothing about its kind."""

    async def scene():
        host = Scene()
        for _ in range(apart.SHOWN + 1):
            asked = []

            def fate(prompts: list[str], asked=asked) -> str:
                if len(prompts) > 1:
                    asked[-1].cancel()
                return "failed" if len(prompts) > 1 else "drawn"

            bad = Picture(RealTimeRequest(prompt="bad"), seed=0, width=8, height=8)
            drawing = asyncio.create_task(host.draw(["a", "b", "c", "d"], fate))
            await asyncio.sleep(0)
            asked.append(asyncio.create_task(host.line.draw([bad])))
            put, got = await drawing
            assert sizes(put)[:3] == [1, 1, 3]
            assert {type(one) for one in got} == {Drawing}
        put, _ = await host.draw(EIGHT, lambda _: "drawn")
        assert sizes(put) == TOGETHER

    asyncio.run(scene())


@pytest.mark.parametrize("fate", ["interrupted", "cleared"])
def test_an_interrupt_costs_one_attempt(fate, caplog):
    """An interrupt costs one of those drawn together an attempt."""

    async def scene():
        host, left = Scene(), [ATTEMPTS]

        def disturbed(prompts: list[str]) -> str:
            if len(prompts) == 1 or not left[0]:
                return "drawn"
            left[0] -= 1
            return fate

        put, got = await host.draw(EIGHT[:6], disturbed)
        assert sizes(put) == [1, 1, *[4] * ATTEMPTS, 3]
        assert [type(one) for one in got] == [Drawing, Drawing, Interrupted, Drawing, Drawing, Drawing]
        assert "Somebody" in str(got[2])

    asyncio.run(scene())
    assert caplog.text.count("it is drawn again") == ATTEMPTS
    assert ("cleared" in caplog.text) == (fate == "cleared")
