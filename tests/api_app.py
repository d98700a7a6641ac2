"""The API's middleware and connections in an aiohttp application of the test's own."""

import asyncio
import re
from contextlib import asynccontextmanager

from aiohttp import web
from raw_http import parts
from vega_pack.api import connection, middleware


async def others(request: web.Request) -> web.Response:
    """Another pack's route under /v1."""
    return web.Response(status=409, text=f"{len(await request.read())} bytes")


@asynccontextmanager
async def listening(handler, *middlewares):
    """The port of a server with our middleware and our connections, and others' middlewares within."""
    app = web.Application(middlewares=[middleware.api_middleware, *middlewares])
    app.router.add_route("*", "/v1/{path:.*}", middleware.api_handler(handler))
    app.router.add_post("/v1/others", others)
    connection.install(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def send_request(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
    writer.close()  # aiohttp may wait for the rest of the request first
    return parts(head + body)
