"""Two Ray Serve deployments: Front asks for keys and measures; each Painter owns one ComfyUI process and one GPU."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from pathlib import Path

import httpx
from fastapi import FastAPI, Request, Response
from multidict import CIMultiDict
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util import metrics
from starlette.datastructures import Headers

from api.access import Access
from api.contract import DOCUMENT, MODELS, NO_ASYNC, no_path
from api.settings import Settings

from .host_process import START, HostProcess
from .options import Options
from .replica_port import listen_where_ray_does

ATTEMPTS = 5  # of a request whose Painter died
RETRY_AFTER = 2  # seconds
DYING = 5.0  # seconds that a process may take to be gone after its connections broke
MOST = 512  # requests that a Front has; what comes beyond waits at the proxy with its body unread
AT_ONCE = 8  # requests that a Painter has; more wait where any Painter can take them
PATHS = {f"v1/{name}" for name in (DOCUMENT, *MODELS)}
CLIENT_CLOSED_REQUEST = 499
HUNG = 60.0  # seconds in which a living process must answer
DRAIN = 300  # seconds that a replica has to end what is begun, when it is to stop
# Of a request's headers: what ComfyUI's own checks and the API read. The key and what proxies add stay at the door.
PASSED_ON = {"host", "origin", "sec-fetch-site", "content-type", "content-encoding"}
NOT_PASSED_BACK = {"connection", "content-length", "keep-alive", "transfer-encoding"}
BOUNDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]  # seconds of the latency histogram

routes = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


# Above the deployments: what they use is packed for other machines when they are defined.
def error(status: int, message: str, **more: str) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps({"error": message, **more}).encode()


def busy(status: int, message: str) -> Answer:
    status, headers, body = error(status, f"{message}; ask again in {RETRY_AFTER} s.")
    return status, {**headers, "Retry-After": str(RETRY_AFTER)}, body


def as_the_host_has(headers: Headers) -> CIMultiDict:
    """As the host's server decodes headers, so that a key is the same key there and here; a name may come twice."""
    return CIMultiDict((name, value.encode("latin-1").decode("utf-8", "surrogateescape")) for name, value in headers.items())


@serve.deployment(
    max_ongoing_requests=AT_ONCE,
    max_queued_requests=256,
    graceful_shutdown_timeout_s=DRAIN,
    health_check_period_s=2,
    health_check_timeout_s=START + HUNG,  # it may have to start the process
)
class Painter:
    """One host process. When it dies or hangs it is started again, and what it was drawing is drawn again."""

    def __init__(self, comfyui: str, arguments: list[str]):
        listen_where_ray_does()
        self.host = HostProcess(Path(comfyui), arguments)
        self.http = httpx.AsyncClient(trust_env=False, timeout=None)
        self.starting: asyncio.Task | None = None

    async def check_health(self) -> None:
        await self.alive()
        try:
            await self.http.get(f"{self.host.url}/v1/{DOCUMENT}", headers=self.host.key, timeout=HUNG)
        except httpx.TimeoutException:
            await asyncio.to_thread(self.host.stop)
            await self.alive()
        except httpx.TransportError:
            pass  # it has just died: the next look finds that

    async def alive(self) -> None:
        """Returns when the process answers; whoever waits may give up without giving up the start."""
        if self.starting is None or (self.starting.done() and not self.host.is_alive()):
            self.starting = asyncio.create_task(self.host.start())
        await asyncio.shield(self.starting)

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        for _ in range(ATTEMPTS):
            with contextlib.suppress(RuntimeError):  # it ended while it started
                await self.alive()
                try:
                    with_key = {**headers, **self.host.key}
                    response = await self.http.request(method, self.host.url + path, headers=with_key, content=body)
                    back = {name: value for name, value in response.headers.items() if name not in NOT_PASSED_BACK}
                    return response.status_code, back, response.content
                except httpx.TransportError:
                    await self.host.gone(DYING)
        return error(503, "No model is available: its process keeps dying; its log says why.")

    def __del__(self):
        self.host.stop()


@serve.deployment(max_ongoing_requests=MOST, graceful_shutdown_timeout_s=DRAIN, ray_actor_options={"num_cpus": 0})
@serve.ingress(routes)
class Front:
    def __init__(self, painters: DeploymentHandle, access: Access, body_mib: int):
        listen_where_ray_does()
        self.painters, self.access, self.body_mib = painters, access, body_mib
        labels = ("path", "code")
        self.requests = metrics.Counter("vega_requests", "Requests answered.", labels)
        self.seconds = metrics.Histogram("vega_latency_seconds", "Seconds until the answer.", BOUNDS, labels[:1])
        self.images = metrics.Counter("vega_images", "Pictures answered.", labels[:1])
        self.depth = metrics.Gauge("vega_queue_depth", "Requests that wait or are drawn.")
        self.waiting, self.draining = 0, False

    @routes.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    async def respond(self, path: str, request: Request) -> Response:
        began, status, headers = time.perf_counter(), CLIENT_CLOSED_REQUEST, {}
        with self.counted():
            try:
                status, headers, body = await self.answer(path, request)
            except Exception as failure:
                id = secrets.token_hex(4)
                logging.exception("Vega API: request %s failed: %s", id, failure)
                status, headers, body = error(500, f"The picture could not be drawn; the log says why under {id}.", id=id)
            finally:
                label = f"/{path}" if path in PATHS and status != 401 else "other"  # labels must stay few
                self.requests.inc(1, {"path": label, "code": str(status)})
                self.seconds.observe(time.perf_counter() - began, {"path": label})
                if images := int(headers.get("x-images", 0)):
                    self.images.inc(images, {"path": label})
        return Response(body, status, headers)

    @contextlib.contextmanager
    def counted(self):
        self.waiting += 1
        self.depth.set(self.waiting)
        try:
            yield
        finally:
            self.waiting -= 1
            self.depth.set(self.waiting)

    async def answer(self, path: str, request: Request) -> Answer:
        if refusal := self.access.refusal(as_the_host_has(request.headers), request.client.host if request.client else None):
            return error(401, refusal)
        if path.partition("/")[0] == "v2":
            return error(404, NO_ASYNC)
        if path not in PATHS:  # as it came, decoded: nothing else of the host is reached
            return error(404, no_path(path.removeprefix("v1/")))
        if self.draining:
            return busy(503, "The server is being stopped")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.body_mib * 2**20:
                return error(413, f"The body is larger than {self.body_mib} MiB.")
        headers = {name: value for name, value in request.headers.items() if name in PASSED_ON}
        for _ in range(ATTEMPTS):
            try:
                return await self.painters.answer.remote(request.method, f"/{path}", headers, bytes(body))
            except BackPressureError:
                return busy(429, "Too many requests are waiting")
            except (RayActorError, ObjectLostError, DeploymentUnavailableError):
                await asyncio.sleep(0.2)  # another Painter takes it
        return error(503, "No model is available: its processes keep dying; their logs say why.")

    async def drain(self) -> None:
        """Takes no more requests and returns when those that it has are answered."""
        self.draining = True
        while self.waiting:
            await asyncio.sleep(0.1)


def app(options: Options) -> Application:
    """For Ray Serve's config files: `import_path: serve.deployments:app`."""
    return bound(options, Painter, Settings.of_environment())


def bound(options: Options, painter: serve.Deployment, settings: Settings) -> Application:
    """Front has the digests of the keys, which stay with whoever calls this: Ray writes down what it is given here."""
    painters = painter.bind(str(options.comfyui), options.arguments)
    return Front.bind(painters, Access(settings.all_keys()), settings.body_mib)
