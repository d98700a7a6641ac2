"""Requests of /v2, which clients submit, poll and fetch, and their results for a while."""

import asyncio
import secrets
import time
import uuid
from dataclasses import dataclass, field

from ..contract.paths import REAL_TIME_MODEL
from ..contract.schema import Request
from ..images.encode import EncodedImage
from .drain import ServerStopping
from .graphs import ImageSpec
from .host_client import Interrupted
from .request_queue import QueueFull, Result
from .service import Service

RESULT_TTL_SECONDS = 600
MAX_RESULTS = 1000
MAX_RESULTS_MIB = 256
CANCELLED_MESSAGE = "The request was cancelled."


@dataclass(eq=False)
class AsyncRequest:
    """owner is the digest of its key. It ends with results or with an error."""

    owner: bytes
    model: str
    params: Request
    seed: int
    pictures: list[ImageSpec]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    submitted_at: float = field(default_factory=time.perf_counter)
    duration_s: float | None = None  # from its submission to its end
    results: list[Result] = field(default_factory=list)
    image_names: list[str] = field(default_factory=list)
    error: str | None = None
    task: asyncio.Task | None = None

    def size(self) -> int:
        """Bytes."""
        return sum(len(result.file.data) for result in self.results)


class AsyncRequests:
    """All that were submitted, until RESULT_TTL_SECONDS after their end. For use on the server's event loop alone."""

    def __init__(self):
        self.requests: dict[str, AsyncRequest] = {}
        self.expirations: dict[str, asyncio.TimerHandle] = {}  # of those that have ended, oldest first
        self.images: dict[str, EncodedImage] = {}  # by names that can't be guessed
        self.bytes = 0

    async def submit(self, service: Service, request: AsyncRequest) -> None:
        """Returns when it is queued; QueueFull where it can't be."""
        self.requests[request.id] = request
        request.task = asyncio.create_task(self.run(service, request))
        await asyncio.sleep(0)
        if request.task.done():
            request.task.result()

    async def run(self, service: Service, request: AsyncRequest) -> None:
        try:
            with service.drain.active_request():
                request.results = await service.queue.execute(request.pictures)
            service.metrics.count_images(f"/v2/{request.model}", len(request.results))
            service.readiness.is_ready |= request.model == REAL_TIME_MODEL
        except (QueueFull, ServerStopping):
            del self.requests[request.id]
            raise
        except asyncio.CancelledError:
            request.error = CANCELLED_MESSAGE
        except Interrupted as error:
            request.error = str(service.interrupted_error(error, request.id))
        except Exception as error:
            request.error = str(service.server_error(error, request.id))
        self.finish(request)
        service.drain.wait_for_fetch()

    def finish(self, request: AsyncRequest) -> None:
        """Keeps its result, and removes the oldest ones where there are too many."""
        request.duration_s, request.pictures = time.perf_counter() - request.submitted_at, []
        for result in request.results:
            request.image_names.append(f"{secrets.token_urlsafe(24)}.{result.file.format}")
            self.images[request.image_names[-1]] = result.file
        self.bytes += request.size()
        self.expirations[request.id] = asyncio.get_running_loop().call_later(RESULT_TTL_SECONDS, self.remove, request.id)
        while len(self.expirations) > 1 and (len(self.expirations) > MAX_RESULTS or self.bytes > MAX_RESULTS_MIB * 2**20):
            self.remove(next(iter(self.expirations)))

    def remove(self, id: str) -> None:
        self.expirations.pop(id).cancel()
        request = self.requests.pop(id)
        self.bytes -= request.size()
        for name in request.image_names:
            del self.images[name]
