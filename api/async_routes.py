"""The routes under /v2: Segmind's asynchronous API, which its SDK uses by default (run)."""

import asyncio
import base64
import hmac
import re
from collections.abc import Mapping

from aiohttp import web

from ..contract import paths
from ..contract.errors import ApiError
from .async_requests import MAX_RESULTS, MAX_RESULTS_MIB, RESULT_TTL_SECONDS, AsyncRequest, AsyncRequests
from .responses import error_response, require_method
from .routes import handle_request
from .service import Service, get_service

REQUEST_FAILED_STATUS = 422  # the status of every response about a request that failed, in Segmind's API
HOST_PATTERN = re.compile(r"[\w.:\[\]-]{1,255}", re.ASCII)

async_requests = AsyncRequests()


async def handle_v2(request: web.Request) -> web.Response:
    """Any of the API's paths under /v2."""
    match request.match_info.get("path", "").split("/"):
        case ["images", name]:
            return get_image(request, name)
    return await handle_request(request, "v2", route_v2)


async def route_v2(service: Service, request: web.Request) -> web.Response:
    path = request.match_info.get("path", "")
    match path.split("/"):
        case [model] if model in paths.MODELS:
            require_method(request, "POST")
            return await submit(service, request, model)
        case ["requests", id]:
            require_method(request, "GET", "HEAD")
            return get_result(service, request, find_request(service, request, id))
        case ["requests", id, "status"]:
            require_method(request, "GET", "HEAD")
            return get_status(service, request, find_request(service, request, id))
        case ["requests", id, "cancel"]:
            require_method(request, "POST")
            return await cancel(service, request, find_request(service, request, id))
    raise ApiError(404, paths.async_not_found_message(path))


def find_request(service: Service, request: web.Request, id: str) -> AsyncRequest:
    """The one with the id, if it was submitted with the same key; ApiError 404."""
    found = async_requests.requests.get(id)
    if found is None or not hmac.compare_digest(found.owner, owner_of(service, request)):
        raise ApiError(
            404,
            f"There is no request {paths.printable(id)}, or it was submitted with another key: results are kept "
            f"for {RESULT_TTL_SECONDS // 60} minutes, the last {MAX_RESULTS} and {MAX_RESULTS_MIB} MiB of them.",
        )
    return found


async def submit(service: Service, request: web.Request, model: str) -> web.Response:
    params, pictures = await service.read_request(request, paths.MODELS[model])
    submitted = AsyncRequest(owner_of(service, request), model, params, pictures[0].seed, pictures)
    await async_requests.submit(service, submitted)
    poll_url = build_url(request, f"requests/{submitted.id}")
    return json_response({"status": "QUEUED", **links(request, submitted), "poll_url": poll_url})


async def cancel(service: Service, request: web.Request, submitted: AsyncRequest) -> web.Response:
    """Takes it out of the queue, or interrupts it; one that has ended stays as it is."""
    submitted.task.cancel()
    await asyncio.wait([submitted.task])
    return json_response(status_body(service, request, submitted))


def get_status(service: Service, request: web.Request, submitted: AsyncRequest) -> web.Response:
    return json_response(status_body(service, request, submitted), REQUEST_FAILED_STATUS if submitted.error else 200)


def status_body(service: Service, request: web.Request, submitted: AsyncRequest) -> dict:
    if submitted.duration_s is None:
        name = "QUEUED" if service.queue.are_waiting(submitted.pictures) else "PROCESSING"
        return {"status": name, **links(request, submitted), "metrics": {}}
    if submitted.error:
        error = {"error": submitted.error, "metrics": timing_metrics(submitted)}
        return {"status": "FAILED", **links(request, submitted), **error}
    return {"status": "COMPLETED", **links(request, submitted), "metrics": timing_metrics(submitted)}


def get_result(service: Service, request: web.Request, submitted: AsyncRequest) -> web.Response:
    """output: the picture's URL, or its base64 where that was requested; a list where there are several pictures."""
    if submitted.duration_s is None or submitted.error:
        return get_status(service, request, submitted)
    files = [result.file for result in submitted.results]
    outputs = [build_url(request, f"images/{name}") for name in submitted.image_names]
    images = [
        {"url": output, "content_type": f"image/{file.format}", "file_name": name, "file_size": len(file.data)}
        for output, name, file in zip(outputs, submitted.image_names, files, strict=True)
    ]
    if submitted.params.base64:
        outputs = [base64.b64encode(file.data).decode() for file in files]
    result = {"output": outputs if len(outputs) > 1 else outputs[0], "images": images, "seed": str(submitted.seed)}
    return json_response({"status": "COMPLETED", "request_id": submitted.id, **result, "metrics": timing_metrics(submitted)})


def get_image(request: web.Request, name: str) -> web.Response:
    """For whoever knows the name, without a key, as Segmind's; where no keys are configured, for this machine alone."""
    try:
        service = get_service()
        if rejection := service.auth.rejection_without_key(request.headers, request.remote):
            raise ApiError(401, rejection)
        require_method(request, "GET", "HEAD")
        if not (file := async_requests.images.get(name)):
            raise ApiError(404, f"There is no such picture: they are kept for {RESULT_TTL_SECONDS // 60} minutes.")
    except ApiError as error:
        return error_response(error)
    headers = {"Cache-Control": "private", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=file.data, content_type=f"image/{file.format}", headers=headers)


def owner_of(service: Service, request: web.Request) -> bytes:
    """The digest of the key; the same for all where there are no keys."""
    return service.auth.digest(request.headers.get("x-api-key", "")) if service.auth.digests else b""


def links(request: web.Request, submitted: AsyncRequest) -> dict[str, str]:
    path = f"requests/{submitted.id}"
    return {
        "request_id": submitted.id,
        "status_url": build_url(request, f"{path}/status"),
        "response_url": build_url(request, path),
    }


def timing_metrics(submitted: AsyncRequest) -> dict[str, float]:
    """Seconds, by Segmind's names."""
    seconds = {"total_time": submitted.duration_s}
    if submitted.results:
        seconds["inference_time"] = sum(result.execution_s for result in submitted.results)
        seconds["queue_time"] = max(result.queue_s for result in submitted.results)
    return {name: round(value, 4) for name, value in seconds.items()}


def build_url(request: web.Request, path: str) -> str:
    """The URL under /v2 for the client, with the scheme and host that a proxy in between forwards."""
    scheme, host = (first_forwarded_value(request.headers, f"X-Forwarded-{part}") for part in ("Proto", "Host"))
    scheme = scheme if scheme in ("http", "https") else request.scheme
    host = host if HOST_PATTERN.fullmatch(host) else request.host
    return f"{scheme}://{host}{request.path.removesuffix(request.match_info.get('path', ''))}{path}"


def first_forwarded_value(headers: Mapping[str, str], name: str) -> str:
    """Of a list of values: that of the client's own proxy."""
    return headers.get(name, "").partition(",")[0].strip()


def json_response(body: dict, status: int = 200) -> web.Response:
    return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})
