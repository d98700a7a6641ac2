"""ASGI middleware of Ray's proxy on every machine: request ids, metrics, retries, and JSON for every error.

Ray imports it by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which must be set where Ray starts.
"""

import asyncio
import logging

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.body_limits import BodyLimits
from contract.disconnect import CLIENT_CLOSED_REQUEST
from contract.request_id import REQUEST_ID_HEADER, request_id
from contract.settings import Settings

from . import uvicorn_protocol
from .request_metrics import RequestMetrics
from .responses import NO_STORE, READ_METHODS, RawResponse, error_response, json_response, method_not_allowed, retry_later
from .retries import ReplayableBody, RetryableSend

MAX_ATTEMPTS = 5
RETRY_BACKOFF_SECONDS = 0.2  # before the second attempt; doubled before each further one
HEALTH_PATH, METRICS_PATH, READY_PATH, MODELS_PATH = "/healthz", "/metrics", "/readyz", "/v1/models"
RAY_HEALTH_PATH, RAY_ROUTES_PATH = "/-/healthz", "/-/routes"
UNMETERED_PATHS = {HEALTH_PATH, METRICS_PATH, READY_PATH, MODELS_PATH, RAY_HEALTH_PATH}  # polled every few seconds
# With these a client would set Ray's timeout, its cancellation and its choice of a replica. A header may have - for _.
RAY_CONTROL_HEADERS = {
    "x_request_timeout_seconds",
    "x_request_disconnect_disabled",
    "x_session_id",
    "serve_multiplexed_model_id",
}
# For errors of Ray and of ComfyUI whose body isn't JSON.
ERROR_MESSAGES = {403: "Requests that come from another site are not served.", 408: "The request took too long."}


class ProxyMiddleware:
    def __init__(self, app: ASGIApp):
        self.app = app
        self.bodies = BodyLimits(Settings(keys=(), keys_file=()).max_body_mib)  # the gateway checks keys
        self.metrics = RequestMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id, path = request_id(Headers(scope=scope)), scope["path"]
        kept = [(name, value) for name, value in scope["headers"] if not is_ray_header(name)]
        scope = {**scope, "headers": [*kept, (REQUEST_ID_HEADER.lower().encode(), id.encode())]}
        if path == HEALTH_PATH:
            await send_response(send, id, self.health(scope["method"], id))
        elif path == METRICS_PATH:
            await self.metrics_endpoint(scope, receive, send, id)
        elif path in UNMETERED_PATHS:
            await self.dispatch(scope, receive, send, id)
        else:
            await self.dispatch_metered(scope, receive, send, id)

    def health(self, method: str, id: str) -> RawResponse:
        if method not in READ_METHODS:
            return method_not_allowed(method, id)
        return json_response(200, {"status": "ok"}, **NO_STORE)

    async def metrics_endpoint(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        """For whoever may read the list of models, which the gateway decides."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self.dispatch({**scope, "path": MODELS_PATH, "raw_path": MODELS_PATH.encode()}, receive, collect, id)
        if messages and messages[0]["status"] == 200:
            text, content_type = self.metrics.own.exposition(Headers(scope=scope).get("accept", ""))
            await send_response(send, id, (200, {"Content-Type": content_type, **NO_STORE}, text))
        else:
            for message in messages:
                await send(message)

    async def dispatch_metered(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        timer = self.metrics.start(scope["path"], id)
        start: Message = {}

        async def send_and_record(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif not message.get("more_body"):  # before the last bytes: the client may read the metrics right after them
                timer.stop(start["status"], int(Headers(raw=start["headers"]).get("x-images", 0)))
            await send(message)

        try:
            await self.dispatch(scope, receive, send_and_record, id)
        finally:
            timer.stop(CLIENT_CLOSED_REQUEST)  # no effect where a response was sent

    async def dispatch(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        """Sends one response, or nothing where the client has disconnected."""
        if scope["path"] == RAY_ROUTES_PATH or not scope["path"].startswith("/"):
            return await send_response(send, id, error_response(404, f"There is no {scope['path'][:80]}.", id))
        body = ReplayableBody(scope, receive, self.bodies)
        try:
            await self.dispatch_with_retries(scope, body, send, id)
        finally:
            await body.close()

    async def dispatch_with_retries(self, scope: Scope, body: ReplayableBody, send: Send, id: str) -> None:
        for number in range(1 if scope["path"] == RAY_HEALTH_PATH else MAX_ATTEMPTS):
            if number:
                logging.warning("Vega API: request %s is sent again: no process had an answer to it.", id)
                await asyncio.sleep(RETRY_BACKOFF_SECONDS * 2 ** (number - 1))
            attempt = RetryableSend(id, send)
            try:
                await self.app(dict(scope), body.replay(), attempt)
            except Exception:
                logging.exception("Vega API: request %s failed in Ray's proxy", id)
                if attempt.is_sent:
                    raise
                return await send_response(send, id, self.internal_error(id))
            if attempt.is_sent:
                return None
            if refused := body.refused:
                headers = {**(refused.headers or {}), "Connection": "close"}
                return await send_response(send, id, error_response(refused.status, str(refused), id, **headers))
            if body.is_disconnected:
                return None
            # Where a process dies Ray responds nothing or 503; 404, where a proxy has just started and knows no application.
            if attempt.status not in (None, 404, 503):
                return await send_response(send, id, self.error_in_json(attempt, id))
        return await send_response(send, id, retry_later(503, "No process can take the request now", id))

    def error_in_json(self, attempt: RetryableSend, id: str) -> RawResponse:
        """Replaces an error of Ray or of ComfyUI whose body isn't JSON."""
        if attempt.status == 500:
            logging.error("Vega API: request %s failed: the process that had it answered 500.", id)
            return self.internal_error(id)
        if attempt.status == 429:
            return retry_later(429, "Too many requests are waiting", id)
        message = ERROR_MESSAGES.get(attempt.status, "The request can't be answered.")
        return error_response(attempt.status, message, id)

    def internal_error(self, id: str) -> RawResponse:
        return error_response(500, f"The request could not be answered; the log says why under {id}.", id)


def is_ray_header(header: bytes) -> bool:
    """Also the client's own X-Request-Id, which the middleware replaces: it may contain anything."""
    name = header.decode("latin-1").lower()
    controls = name.replace("-", "_") in RAY_CONTROL_HEADERS or name.startswith("x-serve-router-")
    return controls or name == REQUEST_ID_HEADER.lower()


async def send_response(send: Send, id: str, response: RawResponse) -> None:
    status, headers, body = response
    headers = {**headers, REQUEST_ID_HEADER: id, "Content-Length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def middlewares() -> list[Middleware]:
    """Ray's proxy calls it when it starts."""
    uvicorn_protocol.install()
    return [Middleware(ProxyMiddleware)]
