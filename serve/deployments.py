"""Two Ray Serve deployments: Front asks for keys and measures; each Painter owns one ComfyUI process and one GPU."""

import asyncio
import contextlib
import json
import os
import time
from pathlib import Path

import httpx
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.util import metrics

from api.access import Access

from .host_process import HostProcess

ATTEMPTS = 5  # of a request whose Painter died
RETRY_AFTER = 2  # seconds
DYING = 5.0  # seconds that a process may take to be gone after its connections broke
AT_ONCE = 8  # requests that a Painter has; more wait where any Painter can take them
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"}
BOUNDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]  # seconds of the latency histogram

app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


def passed_on(headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


# Above the deployments: what they use is packed for other machines when they are defined.
def error(status: int, message: str, retry: int | None = None) -> Answer:
    headers = {"Content-Type": "application/json", **({"Retry-After": str(retry)} if retry else {})}
    return status, headers, json.dumps({"error": message}).encode()


@serve.deployment(
    max_ongoing_requests=AT_ONCE, max_queued_requests=256, graceful_shutdown_timeout_s=120, health_check_period_s=2
)
class Painter:
    """One host process. When it dies it is started again, and what it was drawing is drawn again."""

    def __init__(self, comfyui: str, arguments: list[str]):
        self.host = HostProcess(Path(comfyui), arguments)
        self.http = httpx.AsyncClient(trust_env=False, timeout=None)
        self.starting = asyncio.Lock()

    async def check_health(self) -> None:
        await self.alive()

    async def alive(self) -> None:
        async with self.starting:
            if not self.host.is_alive():
                await self.host.start()

    async def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        for _ in range(ATTEMPTS):
            await self.alive()
            try:
                response = await self.http.request(method, self.host.url + path, headers=headers, content=body)
                return response.status_code, passed_on(response.headers), response.content
            except httpx.TransportError:
                await self.host.gone(DYING)
        return error(503, "No model is available: its process keeps dying; its log says why.")

    def __del__(self):
        self.host.stop()


@serve.deployment(max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0})
@serve.ingress(app)
class Front:
    def __init__(self, painters: DeploymentHandle):
        self.painters = painters
        self.access = Access(filter(None, os.environ.get("VEGA_API_KEYS", "").replace(" ", "").split(",")))
        labels = ("path", "code")
        self.requests = metrics.Counter("vega_requests", "Requests answered.", labels)
        self.seconds = metrics.Histogram("vega_latency_seconds", "Seconds until the answer.", BOUNDS, labels[:1])
        self.images = metrics.Counter("vega_images", "Pictures answered.", labels[:1])
        self.depth = metrics.Gauge("vega_queue_depth", "Requests that wait or are drawn.")
        self.waiting = 0

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    async def v1(self, path: str, request: Request) -> Response:
        began = time.perf_counter()
        with self.counted():
            status, headers, body = await self.answer(request)
        path = path if status not in (401, 404) else "other"  # labels must stay few
        self.requests.inc(1, {"path": path, "code": str(status)})
        self.seconds.observe(time.perf_counter() - began, {"path": path})
        if status == 200 and request.method == "POST":
            self.images.inc(1, {"path": path})
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

    async def answer(self, request: Request) -> Answer:
        if refusal := self.access.refusal(request.headers, request.client.host if request.client else None):
            return error(401, refusal)
        headers = {name: value for name, value in passed_on(request.headers).items() if name.lower() != "x-api-key"}
        body = await request.body()
        for _ in range(ATTEMPTS):
            try:
                return await self.painters.answer.remote(request.method, request.url.path, headers, body)
            except BackPressureError:
                return error(429, f"Too many requests are waiting; ask again in {RETRY_AFTER} s.", retry=RETRY_AFTER)
            except (RayActorError, DeploymentUnavailableError):
                await asyncio.sleep(0.2)  # another Painter takes it
        return error(503, "No model is available: its processes keep dying; their logs say why.")
