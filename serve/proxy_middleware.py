"""What stands around Ray's proxy on every machine: request ids, metrics, further attempts, and JSON for every error.

Ray takes it from RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, which must be set where Ray starts.
"""

import asyncio
import logging

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.body_limits import BodyLimits
from contract.disconnect import CLIENT_CLOSED_REQUEST
from contract.request_id import HEADER, request_id
from contract.settings import Settings

from . import uvicorn_protocol
from .answers import NOT_KEPT, READ, Answer, busy, error, said, wrong_method
from .attempts import Attempt, Body
from .request_metrics import RequestMetrics

ATTEMPTS = 5
PAUSE = 0.2  # seconds before the second attempt; before each further one twice as long
HEALTH, METRICS, READY, MODELS = "/healthz", "/metrics", "/readyz", "/v1/models"
RAYS_HEALTH, RAYS_ROUTES = "/-/healthz", "/-/routes"
UNCOUNTED = {HEALTH, METRICS, READY, MODELS, RAYS_HEALTH}  # they are asked every few seconds
# By these a client would tell Ray how long to wait, when to cancel and where to send its request; _ stands for -, too.
TO_RAY = {"x_request_timeout_seconds", "x_request_disconnect_disabled", "x_session_id", "serve_multiplexed_model_id"}
# Of Ray's errors and ComfyUI's that are no JSON.
SENTENCES = {403: "Requests that come from another site are not served.", 408: "The request took too long."}


class ProxyMiddleware:
    def __init__(self, app: ASGIApp):
        self.app = app
        self.bodies = BodyLimits(Settings(keys=(), keys_file=()).body_mib)  # keys are Front's affair
        self.metrics = RequestMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id, path = request_id(Headers(scope=scope)), scope["path"]
        kept = [(name, value) for name, value in scope["headers"] if not is_to_ray(name)]
        scope = {**scope, "headers": [*kept, (HEADER.lower().encode(), id.encode())]}
        if path == HEALTH:
            await send_answer(send, id, self.health(scope["method"], id))
        elif path == METRICS:
            await self.answer_metrics(scope, receive, send, id)
        elif path in UNCOUNTED:
            await self.answer(scope, receive, send, id)
        else:
            await self.count(scope, receive, send, id)

    def health(self, method: str, id: str) -> Answer:
        return said(200, {"status": "ok"}, **NOT_KEPT) if method in READ else wrong_method(method, READ, id)

    async def answer_metrics(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        """For whom the list of models is: Front knows."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.answer({**scope, "path": MODELS, "raw_path": MODELS.encode()}, receive, keep, id)
        if sent and sent[0]["status"] == 200:
            text, content_type = self.metrics.own.exposition(Headers(scope=scope).get("accept", ""))
            await send_answer(send, id, (200, {"Content-Type": content_type, **NOT_KEPT}, text))
        else:
            for message in sent:
                await send(message)

    async def count(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        one = self.metrics.begun(scope["path"], id)
        start: Message = {}

        async def count_and_send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif not message.get("more_body"):  # before the client, who may look at the metrics next, has all of it
                one.end(start["status"], int(Headers(raw=start["headers"]).get("x-images", 0)))
            await send(message)

        try:
            await self.answer(scope, receive, count_and_send, id)
        finally:
            one.end(CLIENT_CLOSED_REQUEST)  # unless it was answered

    async def answer(self, scope: Scope, receive: Receive, send: Send, id: str) -> None:
        """Nothing is sent where the client has gone."""
        if scope["path"] == RAYS_ROUTES or not scope["path"].startswith("/"):
            return await send_answer(send, id, error(404, f"There is no {scope['path'][:80]}.", id))
        body = Body(scope, receive, self.bodies)
        try:
            await self.answer_in_attempts(scope, body, send, id)
        finally:
            await body.ended()

    async def answer_in_attempts(self, scope: Scope, body: Body, send: Send, id: str) -> None:
        for number in range(1 if scope["path"] == RAYS_HEALTH else ATTEMPTS):
            if number:
                logging.warning("Vega API: request %s is sent again: no process had an answer to it.", id)
                await asyncio.sleep(PAUSE * 2 ** (number - 1))
            attempt = Attempt(id, send)
            try:
                await self.app(dict(scope), body.from_its_beginning(), attempt)
            except Exception:
                logging.exception("Vega API: request %s failed in Ray's proxy", id)
                if attempt.is_passed_on:
                    raise
                return await send_answer(send, id, self.failure(id))
            if attempt.is_passed_on:
                return None
            if refused := body.refused:
                said = {**(refused.headers or {}), "Connection": "close"}
                return await send_answer(send, id, error(refused.status, str(refused), id, **said))
            if body.client_is_gone:
                return None
            # Where a process dies Ray answers nothing or 503; 404, where a proxy that has just started knows no application.
            if attempt.status not in (None, 404, 503):
                return await send_answer(send, id, self.in_json(attempt, id))
        return await send_answer(send, id, busy(503, "No process can take the request now", id))

    def in_json(self, attempt: Attempt, id: str) -> Answer:
        """An error of Ray or of ComfyUI that is no JSON."""
        if attempt.status == 500:
            logging.error("Vega API: request %s failed: the process that had it answered 500.", id)
            return self.failure(id)
        if attempt.status == 429:
            return busy(429, "Too many requests are waiting", id)
        return error(attempt.status, SENTENCES.get(attempt.status, "The request can't be answered."), id)

    def failure(self, id: str) -> Answer:
        return error(500, f"The request could not be answered; the log says why under {id}.", id)


def is_to_ray(header: bytes) -> bool:
    """Also the client's own id: it may not be one that can stand in a log."""
    name = header.decode("latin-1").lower()
    return name == HEADER.lower() or name.replace("-", "_") in TO_RAY or name.startswith("x-serve-router-")


async def send_answer(send: Send, id: str, answer: Answer) -> None:
    status, headers, body = answer
    headers = {**headers, HEADER: id, "Content-Length": str(len(body))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def middlewares() -> list[Middleware]:
    """What Ray's proxy asks for when it starts."""
    uvicorn_protocol.install()
    return [Middleware(ProxyMiddleware)]
