"""The ingress deployment: checks keys and paths, and forwards requests to the replicas."""

import asyncio
import logging

from multidict import CIMultiDict
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from contract.auth import KeyAuth
from contract.disconnect import CLIENT_CLOSED_REQUEST
from contract.model_list import model_list
from contract.paths import MODELS, NO_ASYNC_MESSAGE, OPENAPI_PATH, not_found_message
from contract.request_id import request_id
from contract.settings import Settings

from . import replica
from .replica_port import bind_to_node_address
from .responses import NO_STORE, READ_METHODS, RawResponse, error_response, json_response, method_not_allowed, retry_later

APPLICATION = "vega"  # Ray Serve's name for the application of the gateways
GATEWAY_REPLICAS = 2  # of the gateway, on one machine: when one dies, the other takes its requests
MAX_ONGOING_REQUESTS = 512  # of a gateway; further requests wait at the proxy
MAX_ATTEMPTS = 5  # at a request whose replica died
RETRY_DELAY_SECONDS = 0.2
READY_TIMEOUT_SECONDS = 2.0  # for an idle replica to say whether it is ready
MODEL_LIST_PATH, READY_PATH = "v1/models", "readyz"
API_PATHS = {f"v1/{name}" for name in (OPENAPI_PATH, *MODELS)}
# What ComfyUI's own checks and the API read. The client's key and what proxies add are not forwarded.
FORWARDED_HEADERS = {"host", "origin", "sec-fetch-site", "content-type", "content-encoding", "x-request-id"}


def decode_headers(headers: Headers) -> CIMultiDict:
    """Decoded as aiohttp does, so that a key is the same key here and in ComfyUI; a name may come twice."""
    return CIMultiDict((name, value.encode("latin-1").decode("utf-8", "surrogateescape")) for name, value in headers.items())


@serve.deployment(
    num_replicas=GATEWAY_REPLICAS,
    max_ongoing_requests=MAX_ONGOING_REQUESTS,
    graceful_shutdown_timeout_s=replica.DRAIN_TIMEOUT_SECONDS,
    graceful_shutdown_wait_loop_s=replica.DRAIN_POLL_INTERVAL_SECONDS,
    health_check_period_s=replica.HEALTH_PERIOD_SECONDS,
    ray_actor_options={"num_cpus": 0},
)
class Gateway:
    def __init__(self, access: KeyAuth, models: dict):
        bind_to_node_address()
        # The replicas' application may still be starting.
        self.replicas = serve.get_deployment_handle(replica.ComfyReplica.name, replica.APPLICATION, _check_exists=False)
        self.access, self.models = access, models

    async def __call__(self, request: Request) -> Response:
        id = request_id(request.headers)  # the proxy has set it
        try:
            status, headers, body = await self.dispatch(request, id)
        except Exception as failure:
            logging.exception("Vega API: request %s failed: %s", id, failure)
            message = f"The picture could not be drawn; the log says why under {id}."
            status, headers, body = error_response(500, message, id)
        return Response(body, status, headers)

    async def dispatch(self, request: Request, id: str) -> RawResponse:
        path, method = request.scope["path"].removeprefix("/"), request.method
        # Preflights carry no key.
        is_open = path in (MODEL_LIST_PATH, READY_PATH) or (path in API_PATHS and method == "OPTIONS")
        if message := self.check_access(request, is_open):
            return error_response(401, message, id)
        if path.partition("/")[0] == "v2":
            return error_response(404, NO_ASYNC_MESSAGE, id)
        if path in (MODEL_LIST_PATH, READY_PATH):
            return await self.operator_endpoint(path, method, id)
        if path not in API_PATHS:  # compared as decoded: no other route of ComfyUI is reached
            return error_response(404, not_found_message(path.removeprefix("v1/")), id)
        return await self.forward(method, f"/{path}", request, id)

    def check_access(self, request: Request, is_open: bool) -> str | None:
        """The error's message, None where access is granted. is_open: no key is needed where some are configured."""
        headers, remote = decode_headers(request.headers), request.client.host if request.client else None
        return (self.access.rejection_without_key if is_open else self.access.rejection)(headers, remote)

    async def operator_endpoint(self, path: str, method: str, id: str) -> RawResponse:
        if method not in READ_METHODS:
            return method_not_allowed(method, id)
        if path == MODEL_LIST_PATH:
            return json_response(200, self.models, **NO_STORE)
        if await self.is_ready():
            return json_response(200, {"status": "ready"}, **NO_STORE)
        return retry_later(503, "No process has drawn its first picture yet", id)

    async def is_ready(self) -> bool:
        """Whether a replica has drawn; where none is free to say so within READY_TIMEOUT_SECONDS, whether any is running."""
        ready = self.replicas.is_ready.remote()
        try:
            return await asyncio.wait_for(ready, READY_TIMEOUT_SECONDS)
        except BackPressureError:
            return True
        except (RayActorError, DeploymentUnavailableError):
            return False
        except asyncio.TimeoutError:
            ready.cancel()
            return await asyncio.to_thread(replica.any_running)

    async def forward(self, method: str, path: str, request: Request, id: str) -> RawResponse:
        """A replica's response. The request is sent again where its replica dies, at most MAX_ATTEMPTS times."""
        headers = {name: value for name, value in request.headers.items() if name in FORWARDED_HEADERS}
        headers["x-request-id"] = id
        try:
            body = await request.body()
        except ClientDisconnect:
            return CLIENT_CLOSED_REQUEST, {}, b""  # the proxy knows why
        for _ in range(MAX_ATTEMPTS):
            try:
                return await self.replicas.forward.remote(method, path, headers, body)
            except BackPressureError:
                return retry_later(429, "Too many requests are waiting", id)
            except (RayActorError, ObjectLostError, DeploymentUnavailableError):
                await asyncio.sleep(RETRY_DELAY_SECONDS)
        return retry_later(503, "No model is available: its processes keep dying, and their logs say why", id)


def build_app(settings: Settings) -> serve.Application:
    """The gateway is given the keys' digests, not the keys: Ray writes its arguments down."""
    return Gateway.bind(KeyAuth(settings.all_keys()), model_list(settings))
