"""The pack's nodes: sockets, widgets and tooltips over vega/."""

from comfy_api.v0_0_2 import ComfyExtension, io
from server import PromptServer

from ..api import frames, sent
from .accelerate import VegaAccelerate
from .lcm_lora import VegaLCMLora
from .lcm_sampler import VegaLCMSampler
from .loader import VegaLoader
from .send_image import VegaSendImage
from .tiny_vae_decode import VegaTinyVAEDecode


class VegaExtension(ComfyExtension):
    async def on_load(self) -> None:
        sent.add_route(PromptServer.instance.routes)
        PromptServer.instance.app.on_response_prepare.append(frames.remember_transport)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [VegaLoader, VegaLCMLora, VegaAccelerate, VegaLCMSampler, VegaTinyVAEDecode, VegaSendImage]
