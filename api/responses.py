"""Responses with a picture or with an error, and the check of a request's method."""

import base64

from aiohttp import web

from ..contract import schema
from ..contract.errors import ApiError
from ..contract.paths import method_not_allowed_message
from .request_queue import Result


def error_response(error: ApiError) -> web.Response:
    response = web.json_response({"error": str(error), **error.details}, status=error.status, headers=error.headers)
    if error.close:
        response.force_close()
    return response


def require_method(request: web.Request, *allowed: str) -> None:
    """ApiError 405 for another method."""
    if request.method not in allowed:
        raise ApiError(405, method_not_allowed_message(request.method, allowed), {"Allow": ", ".join(allowed)})


def image_response(request: schema.Request, seed: int, results: list[Result]) -> web.Response:
    """The picture's file, or JSON where there are several or base64 was requested."""
    headers = {
        "X-Seed": str(seed),
        "X-Queue-Time": f"{max(result.queue_s for result in results):.4f}",
        "X-Model-Time": f"{sum(result.execution_s for result in results):.4f}",
        "X-Images": str(len(results)),
        "X-Remaining-Credits": "unlimited",  # Segmind's own Python client fails without it
        "Cache-Control": "no-store",
    }
    if len(results) > 1 or request.base64:
        encoded = [base64.b64encode(result.file.data).decode() for result in results]
        return web.json_response({"image": encoded if len(results) > 1 else encoded[0]}, headers=headers)
    (result,) = results
    return web.Response(body=result.file.data, content_type=f"image/{result.file.format}", headers=headers)
