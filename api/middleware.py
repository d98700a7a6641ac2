"""Request ids and JSON errors under /v1 and /v2, also for errors of the host and of other packs' middlewares."""

import json
import logging
import re
import time
from collections.abc import Callable

from aiohttp import web

from ..contract.metrics import UNAUTHORIZED
from ..contract.request_id import REQUEST_ID_HEADER, request_id

# The host has each route under /api, too. Under /v2 ComfyUI-Manager has others.
API_PATHS = re.compile(r"(/api)?(/v1(/.*)?|/v2/([^/]*|requests/.*|images/[^/]*)|/healthz|/readyz|/metrics)", re.DOTALL)
REQUEST_ID = getattr(web, "RequestKey", lambda name, _: name)("vega_request_id", str)  # aiohttp has it since 3.14
METHOD_NOT_ALLOWED = 405
HOST_ERRORS = {  # status -> what the host's response means here
    403: "ComfyUI keeps out what comes from another site: Origin must be the server's own.",
    404: "There is nothing here; /v1/openapi.json says what there is.",
    417: "Of the header Expect only 100-continue is understood.",
}


api_handlers = set()


def api_handler(handler: Callable) -> Callable:
    """A decorator of this API's handlers: responses of another pack's routes under /v1 or /v2 are left alone."""
    api_handlers.add(handler)
    return handler


def is_api_path(path: str) -> bool:
    """path: a URL's path_safe, by which aiohttp looks for its route."""
    return API_PATHS.fullmatch(path) is not None


def is_api_request(request: web.BaseRequest) -> bool:
    """Whether the path is the API's, and no other pack has a route for it."""
    # First the path: a request that could not be parsed has the path / and no match_info.
    if not is_api_path(request.rel_url.path_safe):
        return False
    match = request.match_info
    return match.http_exception is not None or match.handler in api_handlers


def get_request_id(request: web.BaseRequest) -> str:
    if REQUEST_ID not in request:
        request[REQUEST_ID] = request_id(request.headers)
    return request[REQUEST_ID]


@web.middleware
async def api_middleware(request: web.Request, handler) -> web.StreamResponse:
    """The outermost of the host's middlewares."""
    if not is_api_request(request):
        return await handler(request)
    id, start = get_request_id(request), time.perf_counter()
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {name: value for name, value in error.headers.items() if not name.lower().startswith("content-")}
        response = web.Response(status=error.status, headers=headers)
    except Exception as error:  # of a middleware: the API's handlers return their errors
        logging.error("Vega API: request %s failed: %s", id, type(error).__name__, exc_info=error)
        response = web.json_response({"error": f"The server failed; its log says why under {id}."}, status=500)
    log_response(request, response, time.perf_counter() - start)
    return finalize_response(response, id)


def finalize_response(response: web.StreamResponse, id: str) -> web.StreamResponse:
    """Adds the request's id. An error's body becomes JSON, unless it is JSON with `error` already."""
    if response.prepared:
        return response
    if response.status >= 400 and isinstance(response, web.Response):
        body = json.loads(response.body) if response.content_type == "application/json" and response.body else {}
        if not isinstance(body, dict) or "error" not in body:
            body = {"error": HOST_ERRORS.get(response.status) or response.reason or f"Status {response.status}."}
        response.content_type = "application/json"
        response.text = json.dumps({**body, "id": id})
    response.headers[REQUEST_ID_HEADER] = id
    return response


def log_response(request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> None:
    """Logs POST requests, but not those without a valid key, with which anybody could fill the log."""
    if request.method == "POST" and response.status not in (UNAUTHORIZED, METHOD_NOT_ALLOWED):
        count = int(response.headers.get("X-Images", 0))
        pictures = f", {count} picture{'s' if count > 1 else ''}" if count else ""
        logging.info("Vega API: %s: %s%s, %.2f s", get_request_id(request), response.status, pictures, seconds)
