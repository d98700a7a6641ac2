"""The routes under /v1."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..contract import openapi, paths
from ..contract.disconnect import CLIENT_CLOSED_REQUEST
from ..contract.errors import ApiError
from . import connection
from .host_client import Interrupted
from .middleware import get_request_id
from .responses import error_response, image_response, require_method
from .service import Service, get_service

POLL_INTERVAL_SECONDS = 0.2  # of whether the client is still connected

Route = Callable[[Service, web.Request], Awaitable[web.Response]]


async def handle_v1(request: web.Request) -> web.Response:
    """Any path under /v1."""
    return await handle_request(request, "v1", route_v1)


async def handle_request(request: web.Request, version: str, route: Route) -> web.Response:
    """The response of a route after authentication, with errors as JSON and in the metrics."""
    try:
        service = get_service()
    except ApiError as error:
        return error_response(error)
    start, path = time.perf_counter(), f"/{version}/{request.match_info.get('path', '')}"
    response = await authenticate_and_route(service, request, route)
    seconds, images = time.perf_counter() - start, int(response.headers.get("X-Images", 0))
    service.metrics.observe_response(path, response.status, seconds, images, get_request_id(request))
    service.readiness.is_ready |= images > 0 and path == f"/v1/{paths.REAL_TIME_MODEL}"
    if images:
        service.drain.wait_for_response(response, request.transport)
    return response


async def authenticate_and_route(service: Service, request: web.Request, route: Route) -> web.Response:
    id = get_request_id(request)
    try:
        if rejection := service.auth.rejection(request.headers, request.remote):
            raise ApiError(401, rejection)
        return await route(service, request)
    except ApiError as error:
        return error_response(error)
    except Interrupted as interrupted:
        return error_response(service.interrupted_error(interrupted, id))
    except Exception as error:
        return error_response(service.server_error(error, id))


async def route_v1(service: Service, request: web.Request) -> web.Response:
    path = request.match_info.get("path", "")
    if path == paths.OPENAPI_PATH:
        require_method(request, "GET", "HEAD")
        return web.json_response(openapi.build_document())
    if path not in paths.MODELS:
        raise ApiError(404, paths.not_found_message(path))
    require_method(request, "POST")
    params, pictures = await service.read_request(request, paths.MODELS[path])
    with service.drain.active_request():
        results = await wait_while_connected(request, asyncio.create_task(service.queue.execute(pictures)))
    return image_response(params, pictures[0].seed, results)


async def wait_while_connected(request: web.Request, work: asyncio.Future):
    """The work's result; cancels it when the client disconnects, which aiohttp does only where its owner asks for it."""
    try:
        while True:
            done, _ = await asyncio.wait([work], timeout=POLL_INTERVAL_SECONDS)
            if done:
                return work.result()
            if connection.is_disconnected(request):
                raise ApiError(CLIENT_CLOSED_REQUEST, "The client has gone away.")
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work
