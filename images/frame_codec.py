"""The host's binary websocket message of an image with metadata (server.py, send_image_with_metadata)."""

import json
import struct

from protocol import BinaryEventTypes

from . import graph_metadata


def pack(metadata: dict, image: bytes) -> bytes:
    """The payload of a PREVIEW_IMAGE_WITH_METADATA event: the length of the JSON in 4 bytes, the JSON, the image's file."""
    header = graph_metadata.strict_json(metadata).encode()
    return struct.pack(">I", len(header)) + header + image


def unpack(message: bytes) -> tuple[dict, bytes] | None:
    """(metadata, the image's file) of a message, in which the event stands before the payload; None of any other event."""
    if int.from_bytes(message[:4], "big") != BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA:
        return None
    (length,) = struct.unpack_from(">I", message, 4)
    return json.loads(message[8 : 8 + length]), bytes(message[8 + length :])
