"""The line of pictures before the host's queue, which never gets more than two prompts: people's graphs come in between."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..images.encode import EncodedImage
from ..nodes.batch import MAX_BATCH
from .apart import Apart
from .host_client import HostClient, Interrupted, Prompt
from .host_graphs import Picture, kind

AT_THE_HOST = 2  # one runs, the next is ready
ATTEMPTS = 5  # of a picture that others interrupt or clear from the host's queue; then its client is to ask again
AGAIN = 0.5  # seconds


class Full(Exception):
    """The line takes no more; `seconds` is when to ask again."""

    def __init__(self, seconds: int):
        super().__init__()
        self.seconds = seconds


@dataclass(frozen=True)
class Drawing:
    """A picture and the seconds that it waited and that the host then took."""

    file: EncodedImage
    queued: float
    drawn: float


@dataclass(eq=False)
class Job:
    """A picture on its way: in the line, or drawn by a prompt, perhaps with others."""

    picture: Picture
    done: asyncio.Future
    came: float = field(default_factory=time.perf_counter)
    alone: bool = False
    attempts: int = 0


class Line:
    """For use on the server's event loop alone. graph_of makes the graph of pictures of one kind."""

    def __init__(self, client: HostClient, graph_of: Callable[[list[Picture]], dict], most: int):
        self.client, self.graph_of, self.most = client, graph_of, most
        self.waiting: deque[Job] = deque()
        self.at_the_host: dict[asyncio.Task, list[Job]] = {}
        self.seconds = 1.0  # that a picture takes, by the last ones
        self.apart = Apart()

    def check_room(self) -> None:
        if len(self.waiting) >= self.most:
            raise Full(self.seconds_of_waiting())

    def seconds_of_waiting(self) -> int:
        """When to ask again, by what waits now."""
        return max(1, math.ceil(len(self.waiting) * self.seconds))

    def all_wait(self, pictures: list[Picture]) -> bool:
        """Whether none of them has gone to the host yet."""
        waiting = {id(job.picture) for job in self.waiting}
        return all(id(picture) in waiting for picture in pictures)

    async def draw(self, pictures: list[Picture]) -> list[Drawing]:
        """All or none: Full, PromptError if one fails, or Interrupted where that goes on. Cancelling takes them out of the
        line or interrupts them.
        """
        self.check_room()
        jobs = [Job(picture, asyncio.get_running_loop().create_future()) for picture in pictures]
        self.waiting += jobs
        self.move_up()
        try:
            return await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:
                job.done.cancel()
                if job in self.waiting:
                    self.waiting.remove(job)

    def move_up(self) -> None:
        while self.waiting and len(self.at_the_host) < AT_THE_HOST:
            jobs = self.next()
            task = asyncio.create_task(self.through_the_host(jobs))
            self.at_the_host[task] = jobs
            task.add_done_callback(self.leave)

    def next(self) -> list[Job]:
        """The first, and those of its kind that wait with it."""
        first = self.waiting.popleft()
        same = kind(first.picture)
        mergeable = same and not self.apart.holds(same) and not first.alone
        others = [job for job in self.waiting if mergeable and not job.alone and kind(job.picture) == same]
        for job in others[: MAX_BATCH - 1]:
            self.waiting.remove(job)
        return [first, *others[: MAX_BATCH - 1]]

    def leave(self, task: asyncio.Task) -> None:
        del self.at_the_host[task]
        self.move_up()

    async def through_the_host(self, jobs: list[Job]) -> None:
        """Ends with every job done or in the line again: what others interrupted is drawn again, what failed, alone."""
        try:
            followers = [job.picture.follower for job in jobs if job.picture.follower]
            prompt = await self.client.put(self.graph_of([job.picture for job in jobs]), followers)
            # Only when nobody waits for any of its pictures is a prompt cancelled.
            nobody = asyncio.gather(*(job.done for job in jobs), return_exceptions=True)
            await asyncio.wait([prompt.ended, nobody], return_when=asyncio.FIRST_COMPLETED)
            while not prompt.ended.done():  # again, as the host forgets an interrupt that comes just before it starts
                self.client.cancel(prompt)
                await asyncio.wait([prompt.ended], timeout=AGAIN)
            if prompt.failure:
                raise prompt.failure
            self.hand_over(prompt, jobs)
            if len(jobs) > 1:
                self.apart.drawn_together(kind(jobs[0].picture))
        except Interrupted as error:
            self.draw_again([job for job in jobs if not job.done.done()], error)
        except Exception as error:
            if len(jobs) > 1:
                self.draw_alone(jobs)
            elif not jobs[0].done.done():
                jobs[0].done.set_exception(error)

    def draw_again(self, jobs: list[Job], error: Interrupted) -> None:
        """One interrupt costs one picture an attempt, however many were drawn together: the first, which has had most."""
        if not jobs:
            return
        ids = ", ".join(dict.fromkeys(job.picture.request_id for job in jobs))
        logging.warning("Vega API: request %s: %s; it is drawn again.", ids, error)
        jobs[0].attempts += 1
        if jobs[0].attempts == ATTEMPTS:
            jobs.pop(0).done.set_exception(error)
        self.waiting.extendleft(reversed(jobs))

    def draw_alone(self, jobs: list[Job]) -> None:
        """It may be one's own prompt that failed, or one's that has left: then nothing is shown of their kind."""

        def look(ended: asyncio.Future) -> None:
            if all(isinstance(result, Drawing) for result in ended.result()):
                self.apart.each_drawn_alone(kind(jobs[0].picture))

        asyncio.gather(*(job.done for job in jobs), return_exceptions=True).add_done_callback(look)
        left = [job for job in jobs if not job.done.done()]
        for job in left:
            job.alone = True
        self.waiting.extendleft(reversed(left))

    def hand_over(self, prompt: Prompt, jobs: list[Job]) -> None:
        drawn = time.perf_counter() - prompt.began
        self.seconds += 0.1 * (drawn / len(jobs) - self.seconds)
        for job, file in zip(jobs, prompt.files, strict=True):
            if not job.done.done():
                job.done.set_result(Drawing(file, prompt.began - job.came, drawn))
