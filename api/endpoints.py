"""The routes under /v1."""

import asyncio
import base64
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from functools import partial

import pydantic
from aiohttp import web
from server import PromptServer

from ..images import decode
from ..nodes import model_lists
from ..vega import native_resolution
from . import answers, connection, contract, embeddings, emphasis, host_graphs, openapi
from .access import Access
from .bodies import Bodies
from .client_gone import CLIENT_CLOSED_REQUEST
from .drain import Drain, Stopping
from .follower import follower
from .host_client import HostClient, Interrupted, PromptError
from .line import Drawing, Full, Line
from .metrics import Metrics
from .readiness import Readiness
from .refused import Refused, check_method
from .settings import Settings

MOST_RANDOM_SEED = 999_999_999_999_999  # the hosted API's highest, which a number in JavaScript holds exactly
EXAMPLE = '{"prompt": "a pink dawn over pine trees"}'
LOOKS = 0.2  # seconds between two looks at whether the client is still there
WARM_UP = "night, desert, full moon"  # the prompt of /readyz


class Api:
    """Everything under /v1, for one server."""

    def __init__(self, server: PromptServer, settings: Settings):
        self.settings = settings
        keys = settings.all_keys()
        self.access, self.bodies = Access(keys), Bodies(settings.body_mib)
        self.line = Line(HostClient(server), partial(host_graphs.graph_of, settings=settings), settings.waiting)
        self.readiness = Readiness(self.warm_up)
        self.metrics, self.drain = Metrics(), Drain()
        self.metrics.depth.set_function(lambda: self.drain.requests)
        self.drain.listen()
        logging.info("Vega API: serves %s, %s keys.", settings.model, len(keys) or "no")

    async def counted(self, request: web.Request, respond: Callable | None = None) -> web.Response:
        """The answer, told to all who count answers."""
        began, path = time.perf_counter(), request.match_info.get("path", "")
        response = await self.answer(request, respond)
        seconds, images = time.perf_counter() - began, int(response.headers.get("X-Images", 0))
        path = f"/{'v2' if respond else 'v1'}/{path}"
        self.metrics.answered(path, response.status, seconds, images, answers.id_of(request))
        self.readiness.is_ready |= images > 0 and path == f"/v1/{contract.REAL_TIME}"
        if images:
            self.drain.watch(response, request.transport)
        return response

    async def answer(self, request: web.Request, respond: Callable | None = None) -> web.Response:
        """respond(api, request) answers instead of /v1, with the same access and errors."""
        id = answers.id_of(request)
        try:
            if refusal := self.access.refusal(request.headers, request.remote):
                raise Refused(401, refusal)
            if respond:
                return await respond(self, request)
            path = request.match_info.get("path", "")
            if path == contract.DOCUMENT:
                check_method(request, "GET", "HEAD")
                return web.json_response(openapi.document())
            if path not in contract.MODELS:
                raise Refused(404, contract.no_path(path))
            check_method(request, "POST")
            self.drain.check()
            self.line.check_room()  # before a body is held
            asked, pictures = await self.asked(request, contract.MODELS[path])
            with self.drain.work():
                drawings = await while_connected(request, asyncio.create_task(self.line.draw(pictures)))
            return drawn(asked, pictures[0].seed, drawings)
        except Full as full:
            headers = {"Retry-After": str(full.seconds)}
            return Refused(429, f"Too many requests are waiting; ask again in {full.seconds} s.", headers).answer()
        except Stopping as stopping:
            return Refused(503, str(stopping), stopping.headers).answer()
        except Refused as refused:
            return refused.answer()
        except Interrupted as interrupted:
            return self.given_up(interrupted, id).answer()
        except Exception as error:
            return self.failure(error, id).answer()

    async def asked(self, request: web.Request, model: type[contract.Request]) -> tuple[contract.Request, list]:
        """What is asked for, and its pictures as the line takes them; Refused for what is wrong."""
        async with self.bodies.of(request) as body:
            return await self.pictures(request, self.parsed(model, body))

    def parsed(self, model: type[contract.Request], body: bytes) -> contract.Request:
        """JSON in UTF-8, as it is meant to be, or in UTF-16 or UTF-32, as Windows may write it; with or without its mark."""
        if not body:
            raise Refused(400, f"The body is empty: send an object, such as {EXAMPLE}.")
        try:
            encoding = json.detect_encoding(body)
            asked = model.model_validate_json(body if encoding == "utf-8" else body.decode(encoding))
        except UnicodeDecodeError:
            raise Refused(400, "The body is not text: send JSON in UTF-8.") from None
        except pydantic.ValidationError as error:
            raise refused_field(model, error) from None
        for field in ("prompt", "negative_prompt"):
            if why := emphasis.wrong(getattr(asked, field, ""), self.settings.embeddings):
                raise Refused(400, f"{field}: {why}.", field=field)
        return asked

    async def pictures(self, request: web.Request, asked: contract.Request) -> tuple[contract.Request, list]:
        id = answers.id_of(request)
        try:
            follows = follower(request.headers, id)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        await self.check_embeddings(asked)
        own = await self.own_size()
        width, height = asked.img_width or own, asked.img_height or own
        seed = secrets.randbelow(MOST_RANDOM_SEED + 1) if asked.seed == -1 else asked.seed
        seeds = [(seed + k) % (asked.most_seed + 1) for k in range(getattr(asked, "samples", 1))]
        image = None
        if asked.image is not None:
            try:
                image = await asyncio.to_thread(decode.fit_to_size, asked.image, width, height)
            except ValueError as error:
                raise Refused(400, str(error), field="image") from None
            asked = asked.model_copy(update={"image": None})  # what waits needn't hold it
        return asked, [host_graphs.Picture(asked, seed, width, height, image, follows, id) for seed in seeds]

    async def warm_up(self) -> None:
        """Draws a picture of the real-time model at its own size, by the line as any."""
        own = await self.own_size()
        await self.line.draw([host_graphs.Picture(contract.RealTimeRequest(prompt=WARM_UP), 0, own, own)])

    async def check_embeddings(self, asked: contract.Request) -> None:
        for field in ("prompt", "negative_prompt"):
            if names := emphasis.named(getattr(asked, field, ""), self.settings.embeddings):
                try:
                    why = await embeddings.unusable(names, self.settings.model)
                except ValueError as error:
                    raise PromptError(str(error), host_graphs.LOAD) from None
                if why:
                    raise Refused(400, f"{field}: {why}.", field=field)

    async def own_size(self) -> int:
        """The model's, in pixels; read beside the event loop, for the file may be large and its drive slow."""
        try:
            return await asyncio.to_thread(lambda: native_resolution.pixels(model_lists.model_path(self.settings.model)))
        except ValueError as error:
            raise PromptError(str(error), host_graphs.LOAD) from None

    def given_up(self, interrupted: Interrupted, id: str) -> Refused:
        """The client is to ask again: its request is as good as any."""
        seconds = self.line.seconds_of_waiting()
        logging.warning("Vega API: request %s is given up: %s, again and again.", id, interrupted)
        said = f"Others keep interrupting or clearing this server's queue; ask again in {seconds} s."
        return Refused(503, said, {"Retry-After": str(seconds)})

    def failure(self, error: Exception, id: str) -> Refused:
        """What the client is told of an error that it has no part in; the log has the rest under the same id."""
        of_a_node = isinstance(error, PromptError)  # the host has logged its traceback
        logging.error("Vega API: request %s failed: %s", id, error, exc_info=None if of_a_node else error)
        if of_a_node and error.node_id in (host_graphs.LOAD, host_graphs.LORA):
            return Refused(503, f"No model is available; the server's log says why under {id}.")
        return Refused(500, f"The picture could not be drawn; the server's log says why under {id}.")


def refused_field(model: type[contract.Request], error: pydantic.ValidationError) -> Refused:
    """A 400 that names the first wrong field and what it may be."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    names = [str(part) for part in first["loc"][:1]]
    if not names:
        return Refused(400, no_object(first["type"], first["msg"]))
    field = names[0]
    if field not in model.model_fields:
        return Refused(
            400, f"There is no field {field[:80]!r}; there are {', '.join(model.model_fields)}.", field=field[:80]
        )
    allowed = openapi.properties(model)[field]
    return Refused(400, f"{field}: {first['msg']}; allowed: {openapi.in_words(allowed)}.", field=field, allowed=allowed)


def no_object(kind: str, message: str) -> str:
    """What is wrong with a body as a whole, where its fields can't be looked at or don't go together."""
    if kind == "json_invalid":
        why = message.removeprefix("Invalid JSON: ")
        return f"The body is not JSON ({why}): send an object in UTF-8, such as {EXAMPLE}."
    if kind == "model_type":
        return f"The body is JSON, but not an object: send one, such as {EXAMPLE}."
    return f"The body: {message}."


_api: Api | None = None


def api() -> Api:
    """The server's one; the first request starts it. ValueError where the settings are wrong."""
    global _api
    if _api is None:
        _api = Api(PromptServer.instance, Settings.of_environment())
    return _api


async def answer(request: web.Request, respond: Callable | None = None) -> web.Response:
    """Whatever comes under /v1; respond as of Api.answer."""
    try:
        found = api()
    except ValueError as error:
        return Refused(503, str(error)).answer()
    return await found.counted(request, respond)


async def while_connected(request: web.Request, work: asyncio.Future):
    """What the work gives; it is cancelled when the client goes away, for the host's server doesn't do that."""
    try:
        while True:
            done, _ = await asyncio.wait([work], timeout=LOOKS)
            if done:
                return work.result()
            if connection.has_left(request):
                raise Refused(CLIENT_CLOSED_REQUEST, "The client has gone away.")
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work


def drawn(asked: contract.Request, seed: int, drawings: list[Drawing]) -> web.Response:
    headers = {
        "X-Seed": str(seed),
        "X-Queue-Time": f"{max(d.queued for d in drawings):.4f}",
        "X-Model-Time": f"{sum(d.drawn for d in drawings):.4f}",
        "X-Images": str(len(drawings)),
        "X-Remaining-Credits": "unlimited",  # Segmind's own Python client fails without it
        "Cache-Control": "no-store",
    }
    if len(drawings) > 1 or asked.base64:
        encoded = [base64.b64encode(drawing.file.data).decode() for drawing in drawings]
        return web.json_response({"image": encoded if len(drawings) > 1 else encoded[0]}, headers=headers)
    (drawing,) = drawings
    return web.Response(body=drawing.file.data, content_type=f"image/{drawing.file.format}", headers=headers)
