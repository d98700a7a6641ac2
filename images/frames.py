"""Encoded images as binary frames of the host's websocket protocol, to a client that may read slowly."""

import asyncio
import itertools
import logging
import struct
from weakref import WeakKeyDictionary

from aiohttp import web
from comfy_api import feature_flags
from protocol import BinaryEventTypes
from server import PromptServer

from . import frame_codec
from .encode import EncodedImage

PLAIN_FORMAT_CODES = {"jpeg": 1, "png": 2}  # the host's plain image frame knows no others
MAX_UNREAD_BYTES = 32 * 2**20  # that a client may leave unread before it gets no more images
WRITE_BUFFER_LIMIT_BYTES = 256 * 2**20  # MAX_UNREAD_BYTES, an image, and what the host itself has to say meanwhile
QUEUE_DRAIN_TIMEOUT_SECONDS = 5.0  # for the host's own messages to go out first
BUSY_POLLS = 100  # of the host's queue before looking once a millisecond; a few are enough where nothing holds it up
transports = WeakKeyDictionary()  # each websocket's asyncio.Transport, which aiohttp names in its request only


async def remember_transport(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler (on_response_prepare) of the host's application.

    A transport with more unread than its limit (64 KiB by default) pauses, and the host then waits for this one reader
    before it sends anybody anything. So the limit is raised above whatever is ever left unread.
    """
    if isinstance(response, web.WebSocketResponse):
        transports[response] = request.transport
        request.transport.set_write_buffer_limits(high=WRITE_BUFFER_LIMIT_BYTES)


def supports_metadata(server: PromptServer, client_id: str | None) -> bool:
    """Whether the client has announced that it reads the host's metadata frame."""
    return feature_flags.supports_feature(server.sockets_metadata, client_id, "supports_preview_metadata")


def supports_format(server: PromptServer, client_id: str | None, format: str) -> bool:
    """Whether there is a frame that brings the format to the client."""
    return format in PLAIN_FORMAT_CODES or supports_metadata(server, client_id)


def encode_frame(image: EncodedImage, metadata: dict | None) -> tuple[int, bytes]:
    """(event, payload): the host's metadata frame, or its plain image frame where metadata is None."""
    if metadata is None:
        return BinaryEventTypes.PREVIEW_IMAGE, struct.pack(">I", PLAIN_FORMAT_CODES[image.format]) + image.data
    payload = frame_codec.pack({**metadata, "image_type": f"image/{image.format}"}, image.data)
    return BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, payload


async def drain_queue(server: PromptServer) -> None:
    """Returns when the host has written every message that was queued before; `executing` of our node is one.

    The host writes one message after another, so with none left in its queue the last one is on its way, too.
    """
    for pause in itertools.chain(itertools.repeat(0, BUSY_POLLS), itertools.repeat(0.001)):
        if server.messages.empty():
            return
        await asyncio.sleep(pause)


async def send_images(server: PromptServer, client_id: str | None, images: list[EncodedImage], node_metadata: dict) -> None:
    """Writes the images to the client's socket, if it is there; runs on the server's loop and never waits for a reader."""
    try:
        await asyncio.wait_for(drain_queue(server), QUEUE_DRAIN_TIMEOUT_SECONDS)
    except asyncio.TimeoutError:
        logging.warning("Send Image (Vega): the server's messages are held up, so no picture was sent; /history names them.")
        return
    for batch_index, image in enumerate(images):
        if client_id not in server.sockets or not supports_format(server, client_id, image.format):
            return
        transport = transports[server.sockets[client_id]]
        if transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            left = len(images) - batch_index
            logging.warning("Send Image (Vega): a client reads too slowly; %d pictures not sent, /history names them.", left)
            return
        metadata = {**node_metadata, "batch_index": batch_index} if supports_metadata(server, client_id) else None
        event, payload = encode_frame(image, metadata)
        await server.send_bytes(event, payload, client_id)
