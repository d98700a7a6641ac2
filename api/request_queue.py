"""The queue of pictures before the host's own queue.

The host never has more than two of its prompts, so that the prompts of people at the same ComfyUI come in between.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..contract.errors import RetryLater
from ..images.encode import EncodedImage
from ..nodes.batch import MAX_BATCH
from .graphs import ImageSpec, batch_key
from .host_client import HostClient, Interrupted, Prompt
from .unbatchable import UnbatchableKeys

MAX_IN_FLIGHT = 2  # prompts that the host has: one runs, the next is ready
MAX_ATTEMPTS = 5  # of a picture whose prompt is interrupted or cleared by others; then its client is to ask again
CANCEL_RETRY_SECONDS = 0.5


class QueueFull(RetryLater):
    def __init__(self, retry_after_s: int):
        super().__init__(429, "Too many requests are waiting", retry_after_s)


@dataclass(frozen=True)
class Result:
    """A picture's file, the seconds that it was queued, and the seconds that its prompt was executed."""

    file: EncodedImage
    queue_s: float
    execution_s: float


@dataclass(eq=False)
class Job:
    """A picture that is queued, or executed in a prompt, alone or in a batch."""

    picture: ImageSpec
    future: asyncio.Future
    enqueued_at: float = field(default_factory=time.perf_counter)
    unbatched: bool = False
    attempts: int = 0


class RequestQueue:
    """For use on the server's event loop alone. build_graph takes pictures with one batch key."""

    def __init__(self, client: HostClient, build_graph: Callable[[list[ImageSpec]], dict], max_queued_requests: int):
        self.client, self.build_graph, self.max_queued_requests = client, build_graph, max_queued_requests
        self.waiting: deque[Job] = deque()
        self.in_flight: dict[asyncio.Task, list[Job]] = {}
        self.seconds_per_picture = 1.0  # a moving average
        self.unbatchable = UnbatchableKeys()

    def check_capacity(self) -> None:
        if len(self.waiting) >= self.max_queued_requests:
            raise QueueFull(self.retry_after_s())

    def retry_after_s(self) -> int:
        """About how long what is queued now will take."""
        return max(1, math.ceil(len(self.waiting) * self.seconds_per_picture))

    def are_waiting(self, pictures: list[ImageSpec]) -> bool:
        """Whether none of them has been dispatched yet."""
        waiting = {id(job.picture) for job in self.waiting}
        return all(id(picture) in waiting for picture in pictures)

    async def execute(self, pictures: list[ImageSpec]) -> list[Result]:
        """The results of all. QueueFull, PromptError if one of them fails, or Interrupted after MAX_ATTEMPTS.

        Cancelling takes them out of the queue, or interrupts them.
        """
        self.check_capacity()
        jobs = [Job(picture, asyncio.get_running_loop().create_future()) for picture in pictures]
        self.waiting += jobs
        self.dispatch()
        try:
            return await asyncio.gather(*(job.future for job in jobs))
        finally:
            for job in jobs:
                job.future.cancel()
                if job in self.waiting:
                    self.waiting.remove(job)

    def dispatch(self) -> None:
        while self.waiting and len(self.in_flight) < MAX_IN_FLIGHT:
            jobs = self.next_batch()
            task = asyncio.create_task(self.run_batch(jobs))
            self.in_flight[task] = jobs
            task.add_done_callback(self.on_done)

    def next_batch(self) -> list[Job]:
        """The first job, and waiting ones with its batch key."""
        first = self.waiting.popleft()
        key = batch_key(first.picture)
        can_batch = key and key not in self.unbatchable and not first.unbatched
        others = [job for job in self.waiting if can_batch and not job.unbatched and batch_key(job.picture) == key]
        for job in others[: MAX_BATCH - 1]:
            self.waiting.remove(job)
        return [first, *others[: MAX_BATCH - 1]]

    def on_done(self, task: asyncio.Task) -> None:
        del self.in_flight[task]
        self.dispatch()

    async def run_batch(self, jobs: list[Job]) -> None:
        """Returns with every job resolved or queued again: after an interrupt, or one by one where a batch failed."""
        try:
            subscribers = [job.picture.subscriber for job in jobs if job.picture.subscriber]
            prompt = await self.client.submit(self.build_graph([job.picture for job in jobs]), subscribers)
            # A prompt is cancelled only when nobody waits for any of its pictures.
            all_cancelled = asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
            await asyncio.wait([prompt.finished, all_cancelled], return_when=asyncio.FIRST_COMPLETED)
            while not prompt.finished.done():  # again, as the host forgets an interrupt that comes just before it starts
                self.client.cancel(prompt)
                await asyncio.wait([prompt.finished], timeout=CANCEL_RETRY_SECONDS)
            if prompt.failure:
                raise prompt.failure
            self.resolve(prompt, jobs)
            if len(jobs) > 1:
                self.unbatchable.record_success(batch_key(jobs[0].picture))
        except Interrupted as error:
            self.retry([job for job in jobs if not job.future.done()], error)
        except Exception as error:
            if len(jobs) > 1:
                self.retry_unbatched(jobs)
            elif not jobs[0].future.done():
                jobs[0].future.set_exception(error)

    def retry(self, jobs: list[Job], error: Interrupted) -> None:
        """An interrupt costs an attempt of one job of the batch: of the first, which has had most."""
        if not jobs:
            return
        ids = ", ".join(dict.fromkeys(job.picture.request_id for job in jobs))
        logging.warning("Vega API: request %s: %s; it is drawn again.", ids, error)
        jobs[0].attempts += 1
        if jobs[0].attempts == MAX_ATTEMPTS:
            jobs.pop(0).future.set_exception(error)
        self.waiting.extendleft(reversed(jobs))

    def retry_unbatched(self, jobs: list[Job]) -> None:
        """Where all of them succeed alone, it was the batch that failed; otherwise it may have been one of them."""

        def record(outcomes: asyncio.Future) -> None:
            if all(isinstance(outcome, Result) for outcome in outcomes.result()):
                self.unbatchable.record_failure(batch_key(jobs[0].picture))

        asyncio.gather(*(job.future for job in jobs), return_exceptions=True).add_done_callback(record)
        pending = [job for job in jobs if not job.future.done()]
        for job in pending:
            job.unbatched = True
        self.waiting.extendleft(reversed(pending))

    def resolve(self, prompt: Prompt, jobs: list[Job]) -> None:
        execution_s = time.perf_counter() - prompt.started_at
        self.seconds_per_picture += 0.1 * (execution_s / len(jobs) - self.seconds_per_picture)
        for job, file in zip(jobs, prompt.files, strict=True):
            if not job.future.done():
                job.future.set_result(Result(file, prompt.started_at - job.enqueued_at, execution_s))
