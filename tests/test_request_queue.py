"""The request queue before the host's own queue, whose worker the test plays."""

import asyncio
from collections.abc import Callable

import pytest
from comfy.model_management import processing_interrupted
from server import PromptServer
from vega_pack.api import unbatchable
from vega_pack.api.graphs import ImageSpec
from vega_pack.api.host_client import HostClient, Interrupted, PromptError
from vega_pack.api.request_queue import CANCEL_RETRY_SECONDS, MAX_ATTEMPTS, RequestQueue, Result
from vega_pack.contract.schema import RealTimeRequest
from vega_pack.images.encode import EncodedImage

import nodes

GRAPH = {
    "image": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "preview": {"class_type": "PreviewImage", "inputs": {"images": ["image", 0]}},
}


def test_an_interrupt_that_the_host_forgets_is_repeated():
    """The host clears it where a prompt begins (execution.py, execute_async): one that comes just before it does nothing."""

    async def scene():
        server = PromptServer(asyncio.get_running_loop())
        client = HostClient(server)
        queue = RequestQueue(client, lambda pictures: GRAPH, max_queued_requests=1)
        drawing = asyncio.create_task(queue.execute([ImageSpec(RealTimeRequest(prompt="a"), seed=0, width=8, height=8)]))
        while not server.prompt_queue.queue:
            await asyncio.sleep(0.01)
        item, number = server.prompt_queue.get()
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        await asyncio.sleep(0.1)
        assert processing_interrupted()
        nodes.interrupt_processing(False)
        await asyncio.sleep(2 * CANCEL_RETRY_SECONDS)
        assert processing_interrupted()
        server.prompt_queue.task_done(number, {}, status=None)
        await client.send_json({"type": "executing", "data": {"node": None, "prompt_id": item[1]}})
        await asyncio.sleep(0.1)
        nodes.interrupt_processing(False)
        await asyncio.sleep(2 * CANCEL_RETRY_SECONDS)
        assert not processing_interrupted()
        assert not queue.in_flight

    asyncio.run(scene())


Outcome = Callable[[list[str]], str]  # of a batch's prompts: "drawn", "failed", "interrupted" or "cleared"


class ScriptedWorker:
    """A request queue before the host's, whose prompts end as the test says, with the events that the host sends."""

    def __init__(self):
        self.server = PromptServer(asyncio.get_running_loop())
        self.client = HostClient(self.server)
        self.queue = RequestQueue(self.client, self.build_graph, max_queued_requests=64)
        self.put: list[list[str]] = []

    def build_graph(self, pictures: list[ImageSpec]) -> dict:
        self.put.append([picture.request.prompt for picture in pictures])
        return GRAPH

    async def draw(self, prompts: list[str], outcome: Outcome) -> tuple[list[list[str]], list]:
        """Queues them at once: the batches, and what each got."""

        def picture(prompt: str) -> ImageSpec:
            return ImageSpec(RealTimeRequest(prompt=prompt), seed=0, width=8, height=8)

        self.put.clear()
        tasks = [asyncio.create_task(self.queue.execute([picture(prompt)])) for prompt in prompts]
        answers = asyncio.gather(*tasks, return_exceptions=True)
        done = 0
        while not answers.done():
            await asyncio.sleep(0.001)
            if self.server.prompt_queue.queue:
                await self.work(self.put[done], outcome(self.put[done]))
                done += 1
        return list(self.put), [answer[0] if isinstance(answer, list) else answer for answer in answers.result()]

    async def work(self, prompts: list[str], outcome: str) -> None:
        queue = self.server.prompt_queue
        if outcome == "cleared":
            queue.delete_queue_item(lambda item: item is queue.queue[0])
            await self.client.send_json({"type": "status", "data": {}})
            return
        (_, id, *_), number = queue.get()
        await self.send_event("execution_start", id)
        if outcome == "failed":
            error = {"exception_type": "RuntimeError", "exception_message": "too large", "node_id": "sample"}
            await self.send_event("execution_error", id, **error)
        elif outcome == "interrupted":
            await self.send_event("execution_interrupted", id)
        else:
            self.client.take_images([EncodedImage("png", 8, 8, p.encode()) for p in prompts], {"prompt_id": id})
        queue.task_done(number, {}, status=None)
        await self.send_event("executing", id, node=None)

    async def send_event(self, event: str, id: str, **data) -> None:
        await self.client.send_json({"type": event, "data": {"prompt_id": id, **data}})


def sizes(put: list[list[str]]) -> list[int]:
    return [len(prompts) for prompts in put]


EIGHT = list("abcdefgh")
BATCH_SIZES = [1, 1, 4, 2]  # the first two are dispatched at once


def test_a_failed_picture_costs_its_batch_a_retry():
    """A picture that fails costs its batch a retry, and later batches nothing."""

    async def scene():
        worker = ScriptedWorker()
        for _ in range(3):
            put, got = await worker.draw(
                ["a", "b", "bad", "c", "d", "e"], lambda prompts: "failed" if "bad" in prompts else "drawn"
            )
            assert sizes(put) == [1, 1, 4, 1, 1, 1, 1]
            assert [type(one) for one in got] == [Result, Result, PromptError, Result, Result, Result]
            assert [one.file.data for one in got if isinstance(one, Result)] == [b"a", b"b", b"c", b"d", b"e"]
            put, got = await worker.draw(EIGHT, lambda _: "drawn")
            assert sizes(put) == BATCH_SIZES
            assert [one.file.data.decode() for one in got] == EIGHT

    asyncio.run(scene())


def test_batches_that_keep_failing_are_unbatched_for_a_while(monkeypatch):
    def too_large(prompts: list[str]) -> str:
        return "failed" if len(prompts) > 1 else "drawn"

    async def scene():
        worker = ScriptedWorker()
        for _ in range(unbatchable.MAX_FAILURES):
            put, got = await worker.draw(EIGHT[:6], too_large)
            assert sizes(put) == [1, 1, 4, 1, 1, 1, 1]
            assert {type(one) for one in got} == {Result}
        put, _ = await worker.draw(EIGHT, lambda _: "drawn")
        return sizes(put)

    assert 60 <= unbatchable.UNBATCHABLE_TTL_SECONDS <= 3600
    assert asyncio.run(scene()) == [1] * 8
    monkeypatch.setattr(unbatchable, "UNBATCHABLE_TTL_SECONDS", 0)
    assert asyncio.run(scene()) == BATCH_SIZES


def test_a_cancelled_job_leaves_its_key_batchable():
    """A job that was cancelled in a failed batch leaves its key batchable."""

    async def scene():
        worker = ScriptedWorker()
        for _ in range(unbatchable.MAX_FAILURES + 1):
            tasks = []

            def outcome(prompts: list[str], tasks=tasks) -> str:
                if len(prompts) > 1:
                    tasks[-1].cancel()
                return "failed" if len(prompts) > 1 else "drawn"

            bad = ImageSpec(RealTimeRequest(prompt="bad"), seed=0, width=8, height=8)
            drawing = asyncio.create_task(worker.draw(["a", "b", "c", "d"], outcome))
            await asyncio.sleep(0)
            tasks.append(asyncio.create_task(worker.queue.execute([bad])))
            put, got = await drawing
            assert sizes(put)[:3] == [1, 1, 3]
            assert {type(one) for one in got} == {Result}
        put, _ = await worker.draw(EIGHT, lambda _: "drawn")
        assert sizes(put) == BATCH_SIZES

    asyncio.run(scene())


@pytest.mark.parametrize("outcome", ["interrupted", "cleared"])
def test_an_interrupt_costs_one_job_of_a_batch_an_attempt(outcome, caplog):
    async def scene():
        worker, left = ScriptedWorker(), [MAX_ATTEMPTS]

        def disturbed(prompts: list[str]) -> str:
            if len(prompts) == 1 or not left[0]:
                return "drawn"
            left[0] -= 1
            return outcome

        put, got = await worker.draw(EIGHT[:6], disturbed)
        assert sizes(put) == [1, 1, *[4] * MAX_ATTEMPTS, 3]
        assert [type(one) for one in got] == [Result, Result, Interrupted, Result, Result, Result]
        assert "Somebody" in str(got[2])

    asyncio.run(scene())
    assert caplog.text.count("it is drawn again") == MAX_ATTEMPTS
    assert ("cleared" in caplog.text) == (outcome == "cleared")
