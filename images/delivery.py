"""Images from a node to whoever queued the prompt: to a browser, a program or the API; and into /history."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch
from comfy.model_management import processing_interrupted, throw_exception_if_processing_interrupted
from comfy_api import feature_flags
from server import PromptServer

from . import encode, frames, temp_files
from .encode import EncodedImage
from .sink import image_sink
from .store import image_store


def is_browser(server: PromptServer, client_id: str | None) -> bool:
    """Whether ComfyUI's own page is connected: no program has that user interface."""
    return feature_flags.supports_feature(server.sockets_metadata, client_id, "supports_manager_v4_ui")


def can_deliver(server: PromptServer, client_id: str | None, format: str) -> bool:
    """Whether there is a way to bring the format to the client; nobody connected is no obstacle."""
    if client_id not in server.sockets or image_sink(server, client_id):
        return True
    return frames.supports_format(server, client_id, format)


def encode_all(batches: list[torch.Tensor], format: str, quality: int, save_kwargs: dict) -> list[EncodedImage]:
    """The images of all batches ([B, H, W, 3 or 4] in 0..1 each) in order, on threads. An interrupt of the host ends it."""

    def encode_one(image: torch.Tensor) -> EncodedImage | None:
        return None if processing_interrupted() else encode.encode(image, format, quality, save_kwargs)

    with ThreadPoolExecutor() as threads:
        images = list(threads.map(encode_one, (image for batch in batches for image in batch)))
    throw_exception_if_processing_interrupted()
    return images


def to_browser(images: list[EncodedImage]) -> dict:
    """What /history says of them. The page paints a frame on whatever graph is open, and forgets it; these files stay."""
    return {"sent": [], "images": [temp_files.write(image) for image in images]}


def to_program(server: PromptServer, client_id: str | None, images: list[EncodedImage], node_metadata: dict) -> dict:
    """What /history says of them. Blocks until all is sent; not for the server's event loop."""
    delivery = deliver(server, client_id, images, node_metadata)
    entries = {"sent": asyncio.run_coroutine_threadsafe(delivery, server.loop).result()}
    if not frames.supports_metadata(server, client_id):  # it may be one that looks into /history alone
        entries["images"] = temp_files.write_expiring(server.loop, images)
    return entries


async def deliver(
    server: PromptServer, client_id: str | None, images: list[EncodedImage], node_metadata: dict
) -> list[dict]:
    """Keeps and sends the images, on the server's loop: the entry of each in /history; none of what a sink takes."""
    if sink := image_sink(server, client_id):
        sink.take_images(images, node_metadata)
        return []
    entries = [image_store.put(image) for image in images]
    await frames.send_images(server, client_id, images, node_metadata)
    return entries
