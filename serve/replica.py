"""The deployment that draws: each replica owns one ComfyUI process and one GPU."""

import asyncio
import contextlib
from pathlib import Path

import httpx
from ray import serve
from ray.serve.config import RequestRouterConfig

from contract.paths import MODELS, OPENAPI_PATH

from .host_process import START_TIMEOUT_SECONDS, HostProcess
from .options import Options
from .replica_port import bind_to_node_address
from .responses import RawResponse, retry_later

APPLICATION = "comfyui"  # Ray Serve's name for the application of these replicas
MAX_ONGOING_REQUESTS = 8  # of a replica; further requests wait at the gateways, for whichever replica is free first
ROUTER_MAX_BACKOFF_SECONDS = 0.05  # where all replicas are full: a gateway isn't told when another gateway's requests end
MAX_ATTEMPTS = 5  # at a request whose ComfyUI process exited
EXIT_TIMEOUT_SECONDS = 5.0  # for a process to exit after its connections broke
HEALTH_TIMEOUT_SECONDS = 60.0  # a process that takes longer to answer hangs
HEALTH_PERIOD_SECONDS = 2
DRAIN_TIMEOUT_SECONDS = 300  # for a replica that is to stop, to end its ongoing requests
DRAIN_POLL_INTERVAL_SECONDS = 0.5
WARM_UP_BODY = {"prompt": "a lake", "seed": 0}  # a picture of the model's own size
# httpx has decoded the body; the others are for the server that the client is connected to.
DROPPED_RESPONSE_HEADERS = {
    "connection",
    "content-encoding",
    "content-length",
    "date",
    "keep-alive",
    "server",
    "transfer-encoding",
}


@serve.deployment(
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    request_router_config=RequestRouterConfig(max_backoff_s=ROUTER_MAX_BACKOFF_SECONDS),
    graceful_shutdown_timeout_s=DRAIN_TIMEOUT_SECONDS,
    graceful_shutdown_wait_loop_s=DRAIN_POLL_INTERVAL_SECONDS,
    health_check_period_s=HEALTH_PERIOD_SECONDS,
    health_check_timeout_s=2 * START_TIMEOUT_SECONDS + HEALTH_TIMEOUT_SECONDS,  # it may have to start and to draw
)
class ComfyReplica:
    """One ComfyUI process. When it exits or hangs it is restarted, and the requests that it had are sent again.

    Ray Serve routes requests here after the first health check, which passes when the process has drawn a picture.
    """

    def __init__(self, comfyui: str, arguments: list[str]):
        bind_to_node_address()
        self.host = HostProcess(Path(comfyui), arguments)
        self.http = httpx.AsyncClient(trust_env=False, timeout=None)
        self.starting: asyncio.Task | None = None
        self.has_drawn = self.process_has_drawn = False  # ever; since the process was started

    async def check_health(self) -> None:
        """Ray Serve calls it; what it raises fails the check."""
        await self.ensure_running()
        try:
            await self.http.get(f"{self.host.url}/v1/{OPENAPI_PATH}", headers=self.host.key, timeout=HEALTH_TIMEOUT_SECONDS)
        except httpx.TimeoutException:
            await asyncio.to_thread(self.host.stop)
            await self.ensure_running()
        except httpx.TransportError:
            pass  # the process has just exited: the next check restarts it

    async def ensure_running(self) -> None:
        """Returns when the process has answered the warm-up; RuntimeError as of `start`.

        A start is shared by all callers, and goes on where one of them is cancelled.
        """
        if self.starting is None or (self.starting.done() and not self.host.is_alive()):
            self.starting = asyncio.create_task(self.start())
        await asyncio.shield(self.starting)

    async def start(self) -> None:
        """RuntimeError if the process exits, or if no process has ever drawn: a rolling update then keeps old replicas."""
        self.process_has_drawn = False
        await self.host.start()
        url, key = f"{self.host.url}/v1/{next(iter(MODELS))}", self.host.key
        try:
            response = await self.http.post(url, json=WARM_UP_BODY, headers=key, timeout=START_TIMEOUT_SECONDS)
        except httpx.TransportError as failure:
            self.host.stop()
            raise RuntimeError(f"ComfyUI broke off its first picture ({failure!r}); its log says why.") from None
        self.process_has_drawn = response.status_code == 200
        self.has_drawn |= self.process_has_drawn
        if not self.has_drawn:
            self.host.stop()
            raise RuntimeError(f"ComfyUI can't draw: {response.text}")

    def is_ready(self) -> bool:
        return self.process_has_drawn and self.host.is_alive()

    async def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> RawResponse:
        """ComfyUI's response. The request is sent again where its process exits, at most MAX_ATTEMPTS times."""
        for _ in range(MAX_ATTEMPTS):
            with contextlib.suppress(RuntimeError):  # the process exited while it started
                await self.ensure_running()
                try:
                    with_key = {**headers, **self.host.key}
                    response = await self.http.request(method, self.host.url + path, headers=with_key, content=body)
                    self.process_has_drawn |= response.status_code == 200 and method == "POST"
                    kept = {name: value for name, value in response.headers.items() if name not in DROPPED_RESPONSE_HEADERS}
                    return response.status_code, kept, response.content
                except httpx.TransportError:
                    await self.host.wait_exit(EXIT_TIMEOUT_SECONDS)
        message = "No model is available: its process keeps dying, and its log says why"
        return retry_later(503, message, headers["x-request-id"])

    def __del__(self):
        self.host.stop()


def build_app(options: Options, deployment: serve.Deployment, max_queued_requests: int) -> serve.Application:
    """deployment: ComfyReplica with its resources and number of replicas; max_queued_requests: at each gateway."""
    return deployment.options(max_queued_requests=max_queued_requests).bind(str(options.comfyui), options.arguments)


def any_running() -> bool:
    """Whether at least one replica passes its health checks."""
    application = serve.status().applications.get(APPLICATION)
    deployment = application and application.deployments.get(ComfyReplica.name)
    return bool(deployment and deployment.replica_states.get("RUNNING"))
