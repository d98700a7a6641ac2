"""Segmind Vega RT: pictures in one to eight steps."""

WEB_DIRECTORY = "./web"  # not tool.comfy.web: that one is served under the project's name, and ComfyUI asks for the folder's


async def comfy_entrypoint():
    from .extension import VegaExtension  # late, because pytest and tools import this file outside the host

    return VegaExtension()
