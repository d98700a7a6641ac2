"""Every answer under /v1 and /v2 has its request's id, and every error is JSON with it, also the host's and other packs'."""

import json
import logging
import re
import time
from collections.abc import Callable

from aiohttp import web

from ..contract.metrics import UNAUTHORIZED
from ..contract.request_id import HEADER, request_id

# The host has each route under /api, too. Under /v2 ComfyUI-Manager has others.
OURS = re.compile(r"(/api)?(/v1(/.*)?|/v2/([^/]*|requests/.*|images/[^/]*)|/healthz|/readyz|/metrics)", re.DOTALL)
ID = getattr(web, "RequestKey", lambda name, _: name)("vega_request_id", str)  # aiohttp has it since 3.14
METHOD_NOT_ALLOWED = 405
ELSEWHERE = {  # what others' answers mean here
    403: "ComfyUI keeps out what comes from another site: Origin must be the server's own.",
    404: "There is nothing here; /v1/openapi.json says what there is.",
    417: "Of the header Expect only 100-continue is understood.",
}


HANDLERS = set()  # of our routes


def ours(handler: Callable) -> Callable:
    """A decorator of our routes' handlers: another pack's routes under /v1 or /v2 answer as they will."""
    HANDLERS.add(handler)
    return handler


def is_our_path(path: str) -> bool:
    """path: a URL's path_safe, by which aiohttp looks for its route."""
    return OURS.fullmatch(path) is not None


def is_ours(request: web.BaseRequest) -> bool:
    """Whether one of our routes, or none at all, is for it."""
    if not is_our_path(
        request.rel_url.path_safe
    ):  # nor is what can't be read, which aiohttp gives the path /, and no match_info
        return False
    found = request.match_info
    return found.http_exception is not None or found.handler in HANDLERS


def id_of(request: web.BaseRequest) -> str:
    if ID not in request:
        request[ID] = request_id(request.headers)
    return request[ID]


@web.middleware
async def in_our_form(request: web.Request, handler) -> web.StreamResponse:
    """The outermost of the host's middlewares."""
    if not is_ours(request):
        return await handler(request)
    id, began = id_of(request), time.perf_counter()
    try:
        response = await handler(request)
    except web.HTTPException as raised:
        if raised.status < 400:
            raise
        kept = {name: value for name, value in raised.headers.items() if not name.lower().startswith("content-")}
        response = web.Response(status=raised.status, headers=kept)
    except Exception as error:  # of a middleware: our routes answer their own
        logging.error("Vega API: request %s failed: %s", id, type(error).__name__, exc_info=error)
        response = web.json_response({"error": f"The server failed; its log says why under {id}."}, status=500)
    log(request, response, time.perf_counter() - began)
    return with_id(response, id)


def with_id(response: web.StreamResponse, id: str) -> web.StreamResponse:
    """The same answer; an error's body becomes JSON, of which what was JSON with an `error` is kept."""
    if response.prepared:
        return response
    if response.status >= 400 and isinstance(response, web.Response):
        said = json.loads(response.body) if response.content_type == "application/json" and response.body else {}
        if not isinstance(said, dict) or "error" not in said:
            said = {"error": ELSEWHERE.get(response.status) or response.reason or f"Status {response.status}."}
        response.content_type = "application/json"
        response.text = json.dumps({**said, "id": id})
    response.headers[HEADER] = id
    return response


def log(request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> None:
    """A line for what was asked to draw; without a valid key anybody could fill the log."""
    if request.method == "POST" and response.status not in (UNAUTHORIZED, METHOD_NOT_ALLOWED):
        count = int(response.headers.get("X-Images", 0))
        pictures = f", {count} picture{'s' if count > 1 else ''}" if count else ""
        logging.info("Vega API: %s: %s%s, %.2f s", id_of(request), response.status, pictures, seconds)
