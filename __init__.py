"""Segmind Vega RT: pictures in one to eight steps."""

WEB_DIRECTORY = "./web"  # not tool.comfy.web: that one is served under the project's name, and ComfyUI asks for the folder's


async def comfy_entrypoint():
    from . import host_version  # late, because pytest and tools import this file outside the host

    host_version.check_version()
    from .extension import VegaExtension  # later still: an older ComfyUI may lack what it imports

    return VegaExtension()
