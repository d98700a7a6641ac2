"""The routes without a key: /healthz, /readyz, /metrics and /v1/models."""

from aiohttp import web

from ..contract.errors import ApiError, RetryLater
from ..contract.model_list import model_list
from .middleware import get_request_id
from .responses import error_response, require_method
from .service import Service, get_service


async def handle_operator_route(request: web.Request) -> web.Response:
    """Any of them, also under ComfyUI's /api."""
    try:
        response = route_operator_request(request, request.path.rpartition("/")[2])
    except ApiError as error:
        response = error_response(error)
    response.headers["Cache-Control"] = "no-store"
    return response


def route_operator_request(request: web.Request, name: str) -> web.Response:
    require_method(request, "GET", "HEAD")
    if name == "healthz":
        return web.json_response({"status": "ok"})
    service = get_service()
    if rejection := service.auth.rejection_without_key(request.headers, request.remote):
        raise ApiError(401, rejection)
    return {"readyz": get_readiness, "metrics": get_metrics, "models": get_models}[name](request, service)


def get_readiness(request: web.Request, service: Service) -> web.Response:
    service.drain.check()
    if failure := service.readiness.check(get_request_id(request)):
        raise RetryLater(503, *failure)
    return web.json_response({"status": "ready"})


def get_metrics(request: web.Request, service: Service) -> web.Response:
    text, content_type = service.metrics.exposition(", ".join(request.headers.getall("Accept", [])))
    return web.Response(body=text, headers={"Content-Type": content_type})


def get_models(request: web.Request, service: Service) -> web.Response:
    return web.json_response(model_list(service.settings))
