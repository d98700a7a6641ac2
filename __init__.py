"""Segmind Vega RT: pictures in one to eight steps."""


async def comfy_entrypoint():
    from .extension import VegaExtension  # late, because pytest and tools import this file outside the host

    return VegaExtension()
