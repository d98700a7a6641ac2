"""Two Ray Serve deployments: Front asks for keys; each Painter owns one ComfyUI process and one GPU.

Each is an application, so that Serve can end the Fronts with what they have begun before it ends the Painters.
"""

import asyncio
import contextlib
import logging
import math
from pathlib import Path

import httpx
from multidict import CIMultiDict
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.access import Access, keyless_refusal
from api.client_gone import CLIENT_CLOSED_REQUEST
from api.contract import DOCUMENT, MODELS, NO_ASYNC, no_path
from api.model_list import model_list
from api.request_id import request_id
from api.settings import Settings

from .answers import NOT_KEPT, READ, Answer, busy, error, said, wrong_method
from .host_process import START_TIMEOUT_S, HostProcess
from .options import Options
from .replica_port import listen_where_ray_does

FRONTS = 2  # on a machine: when one dies, the other has what it had
ATTEMPTS = 5  # of a request whose Painter died
DYING = 5.0  # seconds that a process may take to be gone after its connections broke
MOST = 512  # requests that a Front has; what comes beyond waits at the proxy
MAX_BACKOFF_S = 0.05  # of a Front that finds every Painter full: the other Front's requests end without its being told
AT_ONCE = 8  # requests that a Painter has; more wait where any Painter can take them
LIST, READY = "v1/models", "readyz"
PATHS = {f"v1/{name}" for name in (DOCUMENT, *MODELS)}
HUNG = 60.0  # seconds in which a living process must answer
AT_HAND = 2.0  # seconds in which a Painter with nothing to do says whether it is ready
DRAIN = 300  # seconds that a replica has to end what is begun, when it is to stop
LOOKS = 0.5  # seconds between two looks at whether it has
# Of a request's headers: what ComfyUI's own checks and the API read. The key and what proxies add stay at the door.
PASSED_ON = {"host", "origin", "sec-fetch-site", "content-type", "content-encoding", "x-request-id"}
# httpx has unpacked the body; the rest is said by the server that the client is connected to.
NOT_PASSED_BACK = {"connection", "content-encoding", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
FIRST_PICTURE = {"prompt": "a lake", "seed": 0}  # at the model's own size
PAINTERS, APPLICATION = "painters", "vega"  # Serve's applications


# Above the deployments: what they use is packed for other machines when they are defined.
def as_the_host_has(headers: Headers) -> CIMultiDict:
    """As the host's server decodes headers, so that a key is the same key there and here; a name may come twice."""
    return CIMultiDict((name, value.encode("latin-1").decode("utf-8", "surrogateescape")) for name, value in headers.items())


@serve.deployment(
    max_ongoing_requests=AT_ONCE,
    request_router_config=RequestRouterConfig(max_backoff_s=MAX_BACKOFF_S),
    graceful_shutdown_timeout_s=DRAIN,
    graceful_shutdown_wait_loop_s=LOOKS,
    health_check_period_s=2,
    health_check_timeout_s=2 * START_TIMEOUT_S + HUNG,  # it may have to start the process and to draw
)
class Painter:
    """One host process. When it dies or hangs it is started again, and what it was drawing is drawn again.

    Serve sends it requests when it has passed its first check of health: when it has drawn a picture.
    """

    def __init__(self, comfyui: str, arguments: list[str]):
        listen_where_ray_does()
        self.host = HostProcess(Path(comfyui), arguments)
        self.http = httpx.AsyncClient(trust_env=False, timeout=None)
        self.starting: asyncio.Task | None = None
        self.has_drawn = self.draws = False  # ever; since its process started

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
        """Returns when the process has been asked for a picture; whoever waits may give up without giving up the start."""
        if self.starting is None or (self.starting.done() and not self.host.is_alive()):
            self.starting = asyncio.create_task(self.start())
        await asyncio.shield(self.starting)

    async def start(self) -> None:
        """RuntimeError if the process ends, or if it never drew: in a rolling restart Serve then keeps what it has."""
        self.draws = False
        await self.host.start()
        url, key = f"{self.host.url}/v1/{next(iter(MODELS))}", self.host.key
        try:
            first = await self.http.post(url, json=FIRST_PICTURE, headers=key, timeout=START_TIMEOUT_S)
        except httpx.TransportError as failure:
            self.host.stop()
            raise RuntimeError(f"ComfyUI broke off its first picture ({failure!r}); its log says why.") from None
        self.draws = first.status_code == 200
        self.has_drawn |= self.draws
        if not self.has_drawn:
            self.host.stop()
            raise RuntimeError(f"ComfyUI can't draw: {first.text}")

    def is_ready(self) -> bool:
        return self.draws and self.host.is_alive()

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        for _ in range(ATTEMPTS):
            with contextlib.suppress(RuntimeError):  # it ended while it started
                await self.alive()
                try:
                    with_key = {**headers, **self.host.key}
                    response = await self.http.request(method, self.host.url + path, headers=with_key, content=body)
                    self.draws |= response.status_code == 200 and method == "POST"
                    back = {name: value for name, value in response.headers.items() if name not in NOT_PASSED_BACK}
                    return response.status_code, back, response.content
                except httpx.TransportError:
                    await self.host.wait_exit(DYING)
        return busy(503, "No model is available: its process keeps dying, and its log says why", headers["x-request-id"])

    def __del__(self):
        self.host.stop()


@serve.deployment(
    num_replicas=FRONTS,
    max_ongoing_requests=MOST,
    graceful_shutdown_timeout_s=DRAIN,
    graceful_shutdown_wait_loop_s=LOOKS,
    health_check_period_s=2,
    ray_actor_options={"num_cpus": 0},
)
class Front:
    def __init__(self, access: Access, models: dict):
        listen_where_ray_does()
        self.painters = serve.get_deployment_handle(Painter.name, PAINTERS, _check_exists=False)  # they may still start
        self.access, self.models = access, models

    async def __call__(self, request: Request) -> Response:
        id = request_id(request.headers)  # the proxy has made one
        try:
            status, headers, body = await self.answer(request, id)
        except Exception as failure:
            logging.exception("Vega API: request %s failed: %s", id, failure)
            status, headers, body = error(500, f"The picture could not be drawn; the log says why under {id}.", id)
        return Response(body, status, headers)

    async def answer(self, request: Request, id: str) -> Answer:
        path, method = request.scope["path"].removeprefix("/"), request.method
        is_open = path in (LIST, READY) or (path in PATHS and method == "OPTIONS")  # preflights have no key
        if refusal := self.refusal(request, is_open):
            return error(401, refusal, id)
        if path.partition("/")[0] == "v2":
            return error(404, NO_ASYNC, id)
        if path in (LIST, READY):
            return await self.for_operators(path, method, id)
        if path not in PATHS:  # as it came, decoded: nothing else of the host is reached
            return error(404, no_path(path.removeprefix("v1/")), id)
        return await self.drawn(method, f"/{path}", request, id)

    def refusal(self, request: Request, is_open: bool) -> str | None:
        """is_open: for whom no key is needed where there are some."""
        headers, remote = as_the_host_has(request.headers), request.client.host if request.client else None
        if not is_open:
            return self.access.refusal(headers, remote)
        return None if self.access.digests else keyless_refusal(headers, remote)

    async def for_operators(self, path: str, method: str, id: str) -> Answer:
        if method not in READ:
            return wrong_method(method, READ, id)
        if path == LIST:
            return said(200, self.models, **NOT_KEPT)
        if await self.is_ready():
            return said(200, {"status": "ready"}, **NOT_KEPT)
        return busy(503, "No process has drawn its first picture yet", id)

    async def is_ready(self) -> bool:
        """Whether a Painter has drawn, or, where all are at work, whether there are some."""
        question = self.painters.is_ready.remote()
        try:
            return await asyncio.wait_for(question, AT_HAND)
        except BackPressureError:
            return True
        except (RayActorError, DeploymentUnavailableError):
            return False
        except asyncio.TimeoutError:
            question.cancel()
            return await asyncio.to_thread(painters_run)

    async def drawn(self, method: str, path: str, request: Request, id: str) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name in PASSED_ON} | {"x-request-id": id}
        try:
            body = await request.body()
        except ClientDisconnect:
            return CLIENT_CLOSED_REQUEST, {}, b""  # the proxy knows why
        for _ in range(ATTEMPTS):
            try:
                return await self.painters.answer.remote(method, path, headers, body)
            except BackPressureError:
                return busy(429, "Too many requests are waiting", id)
            except (RayActorError, ObjectLostError, DeploymentUnavailableError):
                await asyncio.sleep(0.2)  # another Painter takes it
        return busy(503, "No model is available: its processes keep dying, and their logs say why", id)


def painters_run() -> bool:
    application = serve.status().applications.get(PAINTERS)
    painters = application and application.deployments.get(Painter.name)
    return bool(painters and painters.replica_states.get("RUNNING"))


def app(_: Options) -> Application:
    """For Ray Serve's config files: `import_path: serve.deployments:app`, with the options that `painters` has."""
    return front_of(Settings.of_environment())


def painters(options: Options) -> Application:
    """For Ray Serve's config files: `import_path: serve.deployments:painters`."""
    return painters_of(options, Painter, Settings.of_environment())


def front_of(settings: Settings) -> Application:
    """Front has the digests of the keys, which stay with whoever calls this: Ray writes down what it is given here."""
    return Front.bind(Access(settings.all_keys()), model_list(settings))


def painters_of(options: Options, painter: serve.Deployment, settings: Settings) -> Application:
    waiting = math.ceil(settings.waiting / FRONTS)  # each Front has a line of its own
    return painter.options(max_queued_requests=waiting).bind(str(options.comfyui), options.arguments)
