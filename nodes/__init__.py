"""The pack's nodes: sockets, widgets and tooltips over vega/."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .lcm_lora import VegaLCMLora
from .lcm_sampler import VegaLCMSampler
from .loader import VegaLoader
from .tiny_vae_decode import VegaTinyVAEDecode


class VegaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [VegaLoader, VegaLCMLora, VegaLCMSampler, VegaTinyVAEDecode]
