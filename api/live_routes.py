"""The websocket at /vega/live: frames and prompts in, pictures out."""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import Mapping

from aiohttp import WSMsgType, web
from server import PromptServer

from ..contract.errors import ApiError
from ..images import decode
from .live import WAITING_FOR_PROMPT_MESSAGE, LiveSession
from .live_connection import LiveConnection
from .responses import error_response
from .service import get_service

SUBPROTOCOL = "vega-live"
KEY_SUBPROTOCOL_PREFIX = "vega-key."  # before a key in base64url: a page can't send headers
NAME_PATTERN = re.compile(r"[A-Za-z0-9_-]{16,64}")
MAX_CONNECTIONS = 32
MAX_MESSAGE_BYTES = 8 * 2**20
MAX_UNREAD_BYTES = 2**16
HEARTBEAT_SECONDS = 20.0
sessions: dict[str, tuple[LiveSession, asyncio.Task]] = {}  # by name
connections: set[LiveConnection] = set()  # of all


async def handle_live(request: web.Request) -> web.StreamResponse:
    """The connection, until it ends; a response in JSON where there is none to be."""
    try:
        check_access(request)
    except ApiError as error:
        return error_response(error)
    socket = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        heartbeat=HEARTBEAT_SECONDS,
        autoping=False,  # the connection is to see the pongs
        compress=False,  # its messages are images
        max_msg_size=MAX_MESSAGE_BYTES + 1,  # aiohttp refuses the limit itself
    )
    connection = LiveConnection(socket)
    connections.add(connection)  # before it may wait
    try:
        await socket.prepare(request)
        request.transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)  # images/frames.py raises it for ComfyUI's own
        await serve_connection(connection, request.query.get("name") or f"{id(connection)}")
    except ConnectionError:  # it has gone in the middle of a message
        pass
    finally:
        connections.discard(connection)
    return socket


def check_access(request: web.Request) -> None:
    """ApiError where the connection is not to be: the keys and the rules of /v1, and no page of another site."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
        raise ApiError(403, "Pages of other sites are kept out: Origin must be the server's own.")
    auth = get_service().auth
    if rejection := auth.rejection(headers_with_api_key(request.headers), request.remote):
        raise ApiError(401 if auth.digests else 403, rejection)  # where there are no keys, none can help
    if (name := request.query.get("name")) and not NAME_PATTERN.fullmatch(name):
        raise ApiError(400, "name must have 16 to 64 letters, digits, - or _: whoever knows it sees the pictures.")
    if len(connections) >= MAX_CONNECTIONS:
        raise ApiError(503, f"There are {MAX_CONNECTIONS} live connections already: close one.")
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise ApiError(426, "This is a websocket: docs/live.md says what goes over it.", {"Upgrade": "websocket"})


def headers_with_api_key(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers, with the key that a page has put among its protocols."""
    for protocol in map(str.strip, headers.get("Sec-WebSocket-Protocol", "").split(",")):
        if protocol.startswith(KEY_SUBPROTOCOL_PREFIX) and "x-api-key" not in headers:
            encoded = protocol.removeprefix(KEY_SUBPROTOCOL_PREFIX)
            with contextlib.suppress(ValueError):
                key = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
                return {**headers, "x-api-key": key}
    return headers


async def serve_connection(connection: LiveConnection, name: str) -> None:
    """One connection's messages; the session of a name ends with its last connection."""
    if name not in sessions:
        session = LiveSession(PromptServer.instance)
        sessions[name] = session, asyncio.create_task(session.run())
    session, task = sessions[name]
    session.connections.add(connection)
    try:
        if session.graph is None:
            await connection.send_message("waiting", message=WAITING_FOR_PROMPT_MESSAGE)
        async for message in connection.socket:
            try:
                await handle_message(session, connection, message)
            except ValueError as error:
                await connection.send_message("error", frame=connection.frame_count, message=str(error))
    finally:
        if session.disconnect(connection):
            del sessions[name]
            task.cancel()
            session.client.close()


async def handle_message(session: LiveSession, connection: LiveConnection, message) -> None:
    """Of any message; ValueError says what is wrong with it."""
    if message.type == WSMsgType.BINARY:
        connection.frame_count += 1
        await asyncio.to_thread(decode.open_header, message.data)  # megabytes of fill bytes take it seconds
        session.put_frame(connection, message.data)
    elif message.type == WSMsgType.PING:
        await connection.socket.pong(message.data)
    elif message.type == WSMsgType.PONG:
        connection.handle_pong(message.data)
    elif message.type == WSMsgType.TEXT:
        try:
            body = json.loads(message.data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict) or body.get("type") != "prompt" or not isinstance(body.get("prompt"), dict):
            raise ValueError('A text message is {"type": "prompt", "prompt": a graph in API format}; frames are binary.')
        session.set_prompt(connection, body["prompt"])
