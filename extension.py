"""What the host gets: the pack's nodes and its routes."""

import logging
import os

from aiohttp import web
from comfy_api.v0_0_2 import ComfyExtension, io
from server import PromptServer

from .nodes.accelerate import VegaAccelerate
from .nodes.lcm_lora import VegaLCMLora
from .nodes.lcm_sampler import VegaLCMSampler
from .nodes.loader import VegaLoader
from .nodes.lora_loader import VegaLoraLoader
from .nodes.receive_image import VegaReceiveImage
from .nodes.send_image import VegaSendImage
from .nodes.tiny_vae_decode import VegaTinyVAEDecode
from .nodes.together import VegaTogether
from .pictures import frames, sent


class VegaExtension(ComfyExtension):
    async def on_load(self) -> None:
        sent.add_route(PromptServer.instance.routes)
        PromptServer.instance.routes.route("*", "/v1/{path:.*}")(v1)
        PromptServer.instance.app.on_response_prepare.append(frames.remember_transport)
        if any(name.startswith("VEGA_API_") for name in os.environ):
            check_settings()

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
            VegaTogether,
        ]


def check_settings() -> None:
    """Says at the start what every request would be answered."""
    from .api.settings import Settings  # late, as below

    try:
        Settings.of_environment()
    except ValueError as error:
        logging.error("Vega API: %s", error)


async def v1(request: web.Request) -> web.Response:
    from .api import endpoints  # late: its libraries take longer to import than the rest of the pack

    return await endpoints.answer(request)
