"""The routes that need no key: /healthz, /readyz, /metrics and /v1/models."""

from aiohttp import web

from ..contract.auth import keyless_refusal
from ..contract.model_list import model_list
from ..contract.responses import Refused, check_method
from .drain import Stopping
from .middleware import id_of
from .routes import Api, api


async def answer(request: web.Request) -> web.Response:
    """Whatever comes to one of them, also under ComfyUI's /api."""
    try:
        response = of_route(request, request.path.rpartition("/")[2])
    except Refused as refused:
        response = refused.answer()
    except Stopping as stopping:
        response = Refused(503, str(stopping), stopping.headers).answer()
    except ValueError as error:  # the settings are wrong
        response = Refused(503, str(error)).answer()
    response.headers["Cache-Control"] = "no-store"
    return response


def of_route(request: web.Request, name: str) -> web.Response:
    check_method(request, "GET", "HEAD")
    if name == "healthz":
        return web.json_response({"status": "ok"})
    found = api()
    if not found.access.digests and (why := keyless_refusal(request.headers, request.remote)):
        raise Refused(401, why)
    return {"readyz": readyz, "metrics": metrics, "models": models}[name](request, found)


def readyz(request: web.Request, found: Api) -> web.Response:
    found.drain.check()
    if reason := found.readiness.look(id_of(request)):
        why, seconds = reason
        raise Refused(503, f"{why}; ask again in {seconds} s.", {"Retry-After": str(seconds)})
    return web.json_response({"status": "ready"})


def metrics(request: web.Request, found: Api) -> web.Response:
    text, content_type = found.metrics.text(", ".join(request.headers.getall("Accept", [])))
    return web.Response(body=text, headers={"Content-Type": content_type})


def models(request: web.Request, found: Api) -> web.Response:
    return web.json_response(model_list(found.settings))
