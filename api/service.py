"""What the routes share: the keys, limits, queue, metrics and state of one server."""

import asyncio
import logging
import secrets
from functools import partial

from aiohttp import web
from server import PromptServer

from ..contract.auth import KeyAuth
from ..contract.body_limits import BodyLimits
from ..contract.errors import ApiError, RetryLater
from ..contract.metrics import Metrics
from ..contract.schema import RealTimeRequest, Request
from ..contract.settings import Settings
from ..images import decode
from ..nodes import model_lists
from ..vega import native_resolution
from . import embeddings, emphasis
from .drain import Drain
from .graphs import LOAD_NODE, MODEL_NODES, ImageSpec, build_graph
from .host_client import HostClient, Interrupted, PromptError
from .middleware import get_request_id
from .parsing import PROMPT_FIELDS, parse_request
from .readiness import Readiness
from .request_body import read_body
from .request_queue import RequestQueue
from .subscriber import Subscriber

MAX_RANDOM_SEED = 999_999_999_999_999  # the hosted API's, which a number in JavaScript holds exactly
WARM_UP_PROMPT = "night, desert, full moon"


class Service:
    """Of one server; for use on its event loop."""

    def __init__(self, server: PromptServer, settings: Settings):
        self.settings = settings
        keys = settings.all_keys()
        self.auth, self.body_limits = KeyAuth(keys), BodyLimits(settings.max_body_mib)
        self.queue = RequestQueue(HostClient(server), partial(build_graph, settings=settings), settings.max_queued_requests)
        self.readiness = Readiness(self.warm_up)
        self.metrics, self.drain = Metrics(), Drain()
        self.metrics.depth.set_function(lambda: self.drain.active_requests)
        self.drain.install()
        logging.info("Vega API: serves %s, %s keys.", settings.model, len(keys) or "no")

    async def read_request(self, request: web.Request, model: type[Request]) -> tuple[Request, list[ImageSpec]]:
        """The request's parameters, and its pictures for the queue; ApiError for what is not valid."""
        self.drain.check()
        self.queue.check_capacity()  # before a body is in memory
        async with read_body(request, self.body_limits) as body:
            return await self.build_pictures(request, parse_request(model, body, self.settings.embeddings))

    async def build_pictures(self, request: web.Request, params: Request) -> tuple[Request, list[ImageSpec]]:
        id = get_request_id(request)
        try:
            subscriber = Subscriber.from_headers(request.headers, id)
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        await self.check_embeddings(params)
        native = await self.native_size()
        width, height = params.img_width or native, params.img_height or native
        seed = secrets.randbelow(MAX_RANDOM_SEED + 1) if params.seed == -1 else params.seed
        seeds = [(seed + k) % (params.max_seed + 1) for k in range(getattr(params, "samples", 1))]
        image = None
        if params.image is not None:
            try:
                image = await asyncio.to_thread(decode.fit_to_size, params.image, width, height)
            except ValueError as error:
                raise ApiError(400, str(error), field="image") from None
            params = params.model_copy(update={"image": None})  # the queue need not hold it
        return params, [ImageSpec(params, seed, width, height, image, subscriber, id) for seed in seeds]

    async def warm_up(self) -> None:
        """Draws a picture of the real-time model at its native size, through the queue."""
        native = await self.native_size()
        await self.queue.execute([ImageSpec(RealTimeRequest(prompt=WARM_UP_PROMPT), 0, native, native)])

    async def check_embeddings(self, params: Request) -> None:
        for field in PROMPT_FIELDS:
            if names := emphasis.embedding_names(getattr(params, field, ""), self.settings.embeddings):
                try:
                    problem = await embeddings.file_error(names, self.settings.model)
                except ValueError as error:
                    raise PromptError(str(error), LOAD_NODE) from None
                if problem:
                    raise ApiError(400, f"{field}: {problem}.", field=field)

    async def native_size(self) -> int:
        """The model's, in pixels; read in a thread, as the file may be large and its drive slow."""
        try:
            model = self.settings.model
            return await asyncio.to_thread(lambda: native_resolution.read_pixels(model_lists.model_path(model)))
        except ValueError as error:
            raise PromptError(str(error), LOAD_NODE) from None

    def interrupted_error(self, interrupted: Interrupted, id: str) -> ApiError:
        """Others have interrupted the request, and the client is to send it again."""
        logging.warning("Vega API: request %s is given up: %s, again and again.", id, interrupted)
        return RetryLater(503, "Others keep interrupting or clearing this server's queue", self.queue.retry_after_s())

    def server_error(self, error: Exception, id: str) -> ApiError:
        """Of an error that is not the client's: without its message, which the log has under the same id."""
        is_prompt_error = isinstance(error, PromptError)  # the host has logged its traceback
        logging.error("Vega API: request %s failed: %s", id, error, exc_info=None if is_prompt_error else error)
        if is_prompt_error and error.node_id in MODEL_NODES:
            return ApiError(503, f"No model is available; the server's log says why under {id}.")
        return ApiError(500, f"The picture could not be drawn; the server's log says why under {id}.")


_service: Service | None = None


def get_service() -> Service:
    """The server's one; the first request starts it. ApiError 503 where the settings are wrong."""
    global _service
    if _service is None:
        try:
            _service = Service(PromptServer.instance, Settings.from_environment())
        except ValueError as error:
            raise ApiError(503, str(error)) from None
    return _service
