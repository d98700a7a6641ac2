"""The routes under /v2: requests that are submitted, asked about and fetched, as Segmind's own SDK does by default (run)."""

import asyncio
import base64
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from ..images.encode import EncodedImage
from . import contract, endpoints
from .access import keyless_refusal
from .drain import Stopping
from .endpoints import Api
from .host_client import Interrupted
from .host_graphs import Picture
from .line import Drawing, Full
from .refused import Refused, check_method

SECONDS = 600  # that a result is kept,
RESULTS = 1000  # how many at most,
RESULTS_MIB = 256  # and how large they are together
FAILED = 422  # the status of every answer about a request that failed, in Segmind's API
CANCELLED = "The request was cancelled."
HOST = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)


@dataclass(eq=False)
class AsyncRequest:
    """One that was submitted; owner is the digest of its key. It ends with drawings or with an error."""

    owner: bytes
    model: str
    asked: contract.Request
    seed: int
    pictures: list[Picture]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = field(default_factory=time.perf_counter)
    seconds: float | None = None  # from its submission to its end
    drawings: list[Drawing] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of its pictures
    error: str | None = None
    task: asyncio.Task | None = None

    def size(self) -> int:
        """Bytes."""
        return sum(len(drawing.file.data) for drawing in self.drawings)


class AsyncRequests:
    """What was submitted, until ten minutes after its end. For use on the server's event loop alone."""

    def __init__(self):
        self.known: dict[str, AsyncRequest] = {}
        self.ended: dict[str, asyncio.TimerHandle] = {}  # what forgets each one that has ended, oldest first
        self.images: dict[str, EncodedImage] = {}  # by names that can't be guessed
        self.bytes = 0

    async def submit(self, api: Api, one: AsyncRequest) -> None:
        """Returns when it stands in the line; Full where that takes no more."""
        self.known[one.id] = one
        one.task = asyncio.create_task(self.draw(api, one))
        await asyncio.sleep(0)
        if one.task.done():
            one.task.result()

    async def draw(self, api: Api, one: AsyncRequest) -> None:
        try:
            with api.drain.work():
                one.drawings = await api.line.draw(one.pictures)
            api.metrics.drawn(f"/v2/{one.model}", len(one.drawings))
            api.readiness.is_ready |= one.model == contract.REAL_TIME
        except (Full, Stopping):
            del self.known[one.id]
            raise
        except asyncio.CancelledError:
            one.error = CANCELLED
        except Interrupted as error:
            one.error = str(api.given_up(error, one.id))
        except Exception as error:
            one.error = str(api.failure(error, one.id))
        self.keep(one)
        api.drain.wait_for_fetching()

    def keep(self, one: AsyncRequest) -> None:
        """What goes beyond the bounds is forgotten, the oldest first."""
        one.seconds, one.pictures = time.perf_counter() - one.began, []
        for drawing in one.drawings:
            one.names.append(f"{secrets.token_urlsafe(24)}.{drawing.file.format}")
            self.images[one.names[-1]] = drawing.file
        self.bytes += one.size()
        self.ended[one.id] = asyncio.get_running_loop().call_later(SECONDS, self.forget, one.id)
        while len(self.ended) > 1 and (len(self.ended) > RESULTS or self.bytes > RESULTS_MIB * 2**20):
            self.forget(next(iter(self.ended)))

    def forget(self, id: str) -> None:
        self.ended.pop(id).cancel()
        one = self.known.pop(id)
        self.bytes -= one.size()
        for name in one.names:
            del self.images[name]

    def of(self, api: Api, request: web.Request, id: str) -> AsyncRequest:
        """The one with the id, if it was submitted with the same key."""
        one = self.known.get(id)
        if one is None or not hmac.compare_digest(one.owner, owner(api, request)):
            raise Refused(
                404,
                f"There is no request {contract.in_one_line(id)}, or it was submitted with another key: results are kept "
                f"for {SECONDS // 60} minutes, the last {RESULTS} and {RESULTS_MIB} MiB of them.",
            )
        return one


requests = AsyncRequests()


async def answer(request: web.Request) -> web.Response:
    """Whatever comes under /v2."""
    match request.match_info.get("path", "").split("/"):
        case ["images", name]:
            return image(request, name)
    return await endpoints.answer(request, respond)


async def respond(api: Api, request: web.Request) -> web.Response:
    path = request.match_info.get("path", "")
    match path.split("/"):
        case [model] if model in contract.MODELS:
            check_method(request, "POST")
            return await submitted(api, request, model)
        case ["requests", id]:
            check_method(request, "GET", "HEAD")
            return result(api, request, requests.of(api, request, id))
        case ["requests", id, "status"]:
            check_method(request, "GET", "HEAD")
            return status(api, request, requests.of(api, request, id))
        case ["requests", id, "cancel"]:
            check_method(request, "POST")
            return await cancelled(api, request, requests.of(api, request, id))
    raise Refused(404, contract.no_async_path(path))


async def submitted(api: Api, request: web.Request, model: str) -> web.Response:
    api.drain.check()
    api.line.check_room()  # before a body is held
    asked, pictures = await api.asked(request, contract.MODELS[model])
    one = AsyncRequest(owner(api, request), model, asked, pictures[0].seed, pictures)
    await requests.submit(api, one)
    return answered({"status": "QUEUED", **about(request, one), "poll_url": url(request, f"requests/{one.id}")})


async def cancelled(api: Api, request: web.Request, one: AsyncRequest) -> web.Response:
    """Takes it out of the line, or interrupts it; one that has ended stays as it is."""
    one.task.cancel()
    await asyncio.wait([one.task])
    return answered(state(api, request, one))


def status(api: Api, request: web.Request, one: AsyncRequest) -> web.Response:
    return answered(state(api, request, one), FAILED if one.error else 200)


def state(api: Api, request: web.Request, one: AsyncRequest) -> dict:
    if one.seconds is None:
        named = "QUEUED" if api.line.all_wait(one.pictures) else "PROCESSING"
        return {"status": named, **about(request, one), "metrics": {}}
    if one.error:
        return {"status": "FAILED", **about(request, one), "error": one.error, "metrics": metrics(one)}
    return {"status": "COMPLETED", **about(request, one), "metrics": metrics(one)}


def result(api: Api, request: web.Request, one: AsyncRequest) -> web.Response:
    """output: an address of the picture, or the picture in base64 where that was asked for; a list where several were."""
    if one.seconds is None or one.error:
        return status(api, request, one)
    files = [drawing.file for drawing in one.drawings]
    outputs = [url(request, f"images/{name}") for name in one.names]
    images = [
        {"url": output, "content_type": f"image/{file.format}", "file_name": name, "file_size": len(file.data)}
        for output, name, file in zip(outputs, one.names, files, strict=True)
    ]
    if one.asked.base64:
        outputs = [base64.b64encode(file.data).decode() for file in files]
    told = {"output": outputs if len(outputs) > 1 else outputs[0], "images": images, "seed": str(one.seed)}
    return answered({"status": "COMPLETED", "request_id": one.id, **told, "metrics": metrics(one)})


def image(request: web.Request, name: str) -> web.Response:
    """For whoever knows the name, with no key, as Segmind's; without any keys for this machine alone, as all of the API."""
    try:
        api = endpoints.api()
        if not api.access.digests and (why := keyless_refusal(request.headers, request.remote)):
            raise Refused(401, why)
        check_method(request, "GET", "HEAD")
        if not (file := requests.images.get(name)):
            raise Refused(404, f"There is no such picture: they are kept for {SECONDS // 60} minutes.")
    except Refused as refused:
        return refused.answer()
    except ValueError as error:  # the settings are wrong
        return Refused(503, str(error)).answer()
    headers = {"Cache-Control": "private", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=file.data, content_type=f"image/{file.format}", headers=headers)


def owner(api: Api, request: web.Request) -> bytes:
    """The digest of the key; the same for all where there are no keys."""
    return api.access.digest(request.headers.get("x-api-key", "")) if api.access.digests else b""


def about(request: web.Request, one: AsyncRequest) -> dict[str, str]:
    path = f"requests/{one.id}"
    return {"request_id": one.id, "status_url": url(request, f"{path}/status"), "response_url": url(request, path)}


def metrics(one: AsyncRequest) -> dict[str, float]:
    """Seconds, by Segmind's names."""
    told = {"total_time": one.seconds}
    if one.drawings:
        told["inference_time"] = sum(drawing.drawn for drawing in one.drawings)
        told["queue_time"] = max(drawing.queued for drawing in one.drawings)
    return {name: round(seconds, 4) for name, seconds in told.items()}


def url(request: web.Request, path: str) -> str:
    """The address under /v2 that the client reaches: a proxy may tell by which scheme and host it was asked."""
    scheme, host = (forwarded(request.headers, f"X-Forwarded-{part}") for part in ("Proto", "Host"))
    scheme = scheme if scheme in ("http", "https") else request.scheme
    host = host if HOST.fullmatch(host) else request.host
    return f"{scheme}://{host}{request.path.removesuffix(request.match_info.get('path', ''))}{path}"


def forwarded(headers: Mapping[str, str], name: str) -> str:
    """The first of the values, which is of the proxy that the client asked."""
    return headers.get(name, "").partition(",")[0].strip()


def answered(body: dict, status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})
