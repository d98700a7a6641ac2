"""What the host gets: the pack's nodes and its routes."""

import gc
import logging
import os

from aiohttp import web
from comfy_api.v0_0_2 import ComfyExtension, io
from server import PromptServer

from .api import connection
from .api.middleware import api_handler, api_middleware
from .api.server_log import redact_requests
from .api.subscriber import remember_secret
from .contract.auth import is_loopback, keyless_rejection
from .contract.errors import ApiError
from .images import frames, store
from .nodes import example_pictures, face_notes, template_links
from .nodes.accelerate import VegaAccelerate
from .nodes.batch import VegaBatch
from .nodes.lcm_lora import VegaLCMLora
from .nodes.lcm_sampler import VegaLCMSampler
from .nodes.live_image import VegaLiveImage
from .nodes.live_latent import VegaLiveLatent
from .nodes.loader import VegaLoader
from .nodes.lora_loader import VegaLoraLoader
from .nodes.receive_image import VegaReceiveImage
from .nodes.send_image import VegaSendImage
from .nodes.tiny_vae_decode import VegaTinyVAEDecode
from .nodes.train_lcm_lora import VegaTrainLCMLora
from .nodes.train_lora import VegaTrainLora

ASYNC_PATHS = ("{path:[^/]*}", "{path:requests/(?s:.*)}", "{path:images/[^/]*}")


class VegaExtension(ComfyExtension):
    async def on_load(self) -> None:
        PromptServer.instance.routes.get(store.ROUTE + "{id}")(sent_image_route)
        PromptServer.instance.routes.get("/vega/live")(live_route)
        for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
            PromptServer.instance.routes.route("*", path)(operator_route)
        for path in ("/v1", "/v1/{path:(?s:.*)}"):
            PromptServer.instance.routes.route("*", path)(v1_route)
        for path in ASYNC_PATHS:  # no others: ComfyUI-Manager has some under /v2, too
            PromptServer.instance.routes.route("*", f"/v2/{path}")(v2_route)
        PromptServer.instance.app.on_response_prepare.extend((frames.remember_transport, remember_secret))
        PromptServer.instance.app.middlewares.insert(0, api_middleware)
        connection.install(PromptServer.instance.app)
        redact_requests()
        example_pictures.copy_examples()
        template_links.add_routes(PromptServer.instance.routes)
        face_notes.add_route(PromptServer.instance.routes)
        if any(name.startswith("VEGA_API_") for name in os.environ):
            check_settings()
        freeze_startup_objects()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            VegaLoader,
            VegaLCMLora,
            VegaLoraLoader,
            VegaAccelerate,
            VegaLCMSampler,
            VegaTinyVAEDecode,
            VegaSendImage,
            VegaReceiveImage,
            VegaTrainLora,
            VegaTrainLCMLora,
            VegaLiveImage,
            VegaLiveLatent,
            VegaBatch,
        ]


def freeze_startup_objects() -> None:
    """Leaves what was imported by now out of later garbage collections; what comes later is collected as before.

    ComfyUI collects between prompts, every ten seconds (main.py, gc_collect_interval). Half a million objects of modules,
    none of which ever goes, made that 0.3 s long: as long as a picture of a small model.
    """
    gc.collect()
    gc.freeze()


def check_settings() -> None:
    """Logs at the start what every response would say."""
    from .contract.settings import Settings  # late, as below

    try:
        Settings.from_environment()
    except ValueError as error:
        logging.error("Vega API: %s", error)


@api_handler
async def v1_route(request: web.Request) -> web.Response:
    from .api.routes import handle_v1  # late: its libraries take longer to import than the rest of the pack

    return await handle_v1(request)


@api_handler
async def operator_route(request: web.Request) -> web.Response:
    from .api.operator_routes import handle_operator_route  # late, as above

    return await handle_operator_route(request)


@api_handler
async def v2_route(request: web.Request) -> web.Response:
    from .api.async_routes import handle_v2  # late, as above

    return await handle_v2(request)


async def live_route(request: web.Request) -> web.StreamResponse:
    from .api.live_routes import handle_live  # late, as above

    return await handle_live(request)


async def sent_image_route(request: web.Request) -> web.Response:
    """Without keys this machine's own connections must name it; who else may connect was said by ComfyUI's --listen."""
    why = keyless_rejection(request.headers, request.remote) if is_loopback(request.remote) else None
    if why and not has_keys():
        raise web.HTTPUnauthorized(text=why)
    return await store.image_store.respond(request)


def has_keys() -> bool:
    """Whether /v1 asks for a key."""
    from .api.service import get_service  # late, as above

    try:
        return bool(get_service().auth.digests)
    except ApiError:  # the settings are wrong, which /v1 says
        return False
