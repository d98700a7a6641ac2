"""The line of requests before the host's queue, which never gets more than two of them: people's graphs come in between."""

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field

from ..pictures.picture_file import PictureFile
from .host_client import HostClient, Interrupted, Prompt

AT_THE_HOST = 2  # one runs, the next is ready
ATTEMPTS = 3


class Full(Exception):
    """The line takes no more; `seconds` is when to ask again."""

    def __init__(self, seconds: int):
        super().__init__()
        self.seconds = seconds


@dataclass(frozen=True)
class Drawing:
    """A picture and the seconds that it waited and that the host then took."""

    file: PictureFile
    queued: float
    drawn: float


@dataclass(eq=False)
class Job:
    graph: dict
    done: asyncio.Future
    came: float = field(default_factory=time.perf_counter)
    prompt: Prompt | None = None


class Line:
    """For use on the server's event loop alone."""

    def __init__(self, client: HostClient, most: int):
        self.client, self.most = client, most
        self.waiting: deque[Job] = deque()
        self.at_the_host: set[asyncio.Task] = set()
        self.seconds = 1.0  # that a picture takes, by the last ones

    def check_room(self, pictures: int) -> None:
        if len(self.waiting) + pictures > self.most:
            raise Full(max(1, math.ceil(len(self.waiting) * self.seconds)))

    async def draw(self, graph: dict) -> Drawing:
        """The graph's one picture; cancelling takes it out of the line or interrupts it. PromptError if it fails."""
        job = Job(graph, asyncio.get_running_loop().create_future())
        self.waiting.append(job)
        self.move_up()
        try:
            return await job.done
        except asyncio.CancelledError:
            if job in self.waiting:
                self.waiting.remove(job)
            elif job.prompt:
                self.client.cancel(job.prompt)
            raise

    def move_up(self) -> None:
        while self.waiting and len(self.at_the_host) < AT_THE_HOST:
            task = asyncio.create_task(self.through_the_host(self.waiting.popleft()))
            self.at_the_host.add(task)
            task.add_done_callback(self.leave)

    def leave(self, task: asyncio.Task) -> None:
        self.at_the_host.discard(task)
        self.move_up()

    async def through_the_host(self, job: Job) -> None:
        """Ends with job.done set; what others interrupted is drawn again."""
        try:
            for attempt in range(ATTEMPTS):
                job.prompt = await self.client.put(job.graph)
                if job.done.cancelled():  # while the host looked at the graph
                    self.client.cancel(job.prompt)
                await job.prompt.ended
                interrupted = isinstance(job.prompt.failure, Interrupted)
                if job.done.done() or not interrupted or attempt == ATTEMPTS - 1:
                    break
            if not job.done.done():
                job.done.set_result(self.drawing(job))
        except Exception as error:
            if not job.done.done():
                job.done.set_exception(error)

    def drawing(self, job: Job) -> Drawing:
        prompt = job.prompt
        if prompt.failure:
            raise prompt.failure
        drawn = time.perf_counter() - prompt.began
        self.seconds += 0.1 * (drawn - self.seconds)
        (file,) = prompt.files
        return Drawing(file, prompt.began - job.came, drawn)
