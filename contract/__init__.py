"""What every server of the API shares: schema, OpenAPI document, settings, keys, limits and metrics.

It imports neither ComfyUI nor aiohttp: `api` imports it as a part of the pack, and `serve` as a top-level package.
"""
