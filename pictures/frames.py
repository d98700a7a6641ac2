"""Pictures as binary frames of the host's websocket protocol."""

import asyncio
import itertools
import logging
import struct
from weakref import WeakKeyDictionary

from aiohttp import web
from comfy_api import feature_flags
from protocol import BinaryEventTypes
from server import PromptServer

from . import graph_text
from .picture_file import PictureFile

PLAIN_TYPES = {"jpeg": 1, "png": 2}  # the host's plain image frame knows no others
UNREAD = 32 * 2**20  # bytes that a client may leave unread before it gets no more pictures
YIELDS = 100  # to the host's own sending before looking once a millisecond; a few are enough where nothing holds it up
LIMIT = 256 * 2**20  # bytes; that, a picture, and what the host itself has to say meanwhile
PATIENCE = 5.0  # seconds for the host's own messages to go out first
transports = WeakKeyDictionary()  # each websocket's asyncio.Transport, which aiohttp names in its request only


async def remember_transport(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler (on_response_prepare) of the host's application.

    A transport with more unread than its limit (64 KiB by default) pauses, and the host then waits for this one reader
    before it sends anybody anything. So the limit is raised above whatever is ever left unread.
    """
    if isinstance(response, web.WebSocketResponse):
        transports[response] = request.transport
        request.transport.set_write_buffer_limits(high=LIMIT)


def takes_metadata(server: PromptServer, client_id: str) -> bool:
    return feature_flags.supports_feature(server.sockets_metadata, client_id, "supports_preview_metadata")


def is_browser(server: PromptServer, client_id: str) -> bool:
    """Whether ComfyUI's own page is connected: no program has that user interface."""
    return feature_flags.supports_feature(server.sockets_metadata, client_id, "supports_manager_v4_ui")


def takes(server: PromptServer, client_id: str, format: str) -> bool:
    """Whether there is a way to bring the format to the client."""
    in_process = hasattr(server.sockets.get(client_id), "take_pictures")
    return format in PLAIN_TYPES or in_process or takes_metadata(server, client_id)


def frame(file: PictureFile, about: dict | None) -> tuple[int, bytes]:
    """(event, payload): the host's metadata frame, or its plain image frame where `about` is None."""
    if about is None:
        return BinaryEventTypes.PREVIEW_IMAGE, struct.pack(">I", PLAIN_TYPES[file.format]) + file.data
    header = graph_text.strict({**about, "image_type": f"image/{file.format}"}).encode()
    return BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, struct.pack(">I", len(header)) + header + file.data


async def caught_up(server: PromptServer) -> None:
    """Returns when the host has written every message that was queued before; `executing` of our node is one.

    The host writes one message after another, so with none left in its queue the last one is on its way, too.
    """
    for pause in itertools.chain(itertools.repeat(0, YIELDS), itertools.repeat(0.001)):
        if server.messages.empty():
            return
        await asyncio.sleep(pause)


async def send(server: PromptServer, client_id: str | None, files: list[PictureFile], about: dict) -> None:
    """Writes the pictures to the client's socket, if it is there; runs on the server's loop and never waits for a reader."""
    try:
        await asyncio.wait_for(caught_up(server), PATIENCE)
    except asyncio.TimeoutError:
        logging.warning("Send Image (Vega): the server's messages are held up, so no picture was sent; /history names them.")
        return
    for batch_index, file in enumerate(files):
        if client_id not in server.sockets or not takes(server, client_id, file.format):
            return
        transport = transports[server.sockets[client_id]]
        if transport.get_write_buffer_size() > UNREAD:
            left = len(files) - batch_index
            logging.warning("Send Image (Vega): a client reads too slowly; %d pictures not sent, /history names them.", left)
            return
        event, payload = frame(file, {**about, "batch_index": batch_index} if takes_metadata(server, client_id) else None)
        await server.send_bytes(event, payload, client_id)
