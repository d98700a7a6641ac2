"""Send Image (Vega)."""

import asyncio
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy.model_management import processing_interrupted, throw_exception_if_processing_interrupted
from comfy_api.v0_0_2 import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..pictures import frames, picture_file, sent

# Who queued the prompt, by its own word: ComfyUI 0.24.1 and its page don't know that yet.
SOURCE = [io.Hidden.comfy_usage_source] if hasattr(io.Hidden, "comfy_usage_source") else []


class VegaSendImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaSendImage",
            display_name="Send Image (Vega)",
            category="Vega",
            description="Sends pictures to whoever queued the prompt: to a program over the websocket, with no file in the "
            "output folder; to the browser by the temp folder, as Preview Image does.",
            search_aliases=["websocket", "save image websocket", "preview image", "stream", "jpeg", "webp", "real time"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to send, in order. Only png and webp keep an alpha channel."),
                io.Combo.Input(
                    "format",
                    options=["jpeg", "webp", "png"],
                    default="jpeg",
                    tooltip="jpeg is the fastest; png is exact. png and webp restore the workflow when dropped into the "
                    "browser. A jpeg carries it in EXIF for programs; the browser can't read it there.",
                ),
                io.Int.Input(
                    "quality",
                    default=95,
                    min=1,
                    max=100,
                    tooltip="For jpeg and webp: 95 can't be told from the original; lower is smaller. png ignores it.",
                ),
                io.Boolean.Input(
                    "metadata",
                    default=True,
                    optional=True,
                    tooltip="Whether the picture's file carries the workflow and the prompt, for whoever gets the file. "
                    "Pictures in Receive Image (Vega) are left out.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id, io.Hidden.dynprompt, *SOURCE],
            is_output_node=True,
            is_input_list=True,  # a list of pictures of many sizes keeps its order only in one call
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        """Never the same, so that it always runs; no NaN, because the host writes it into the prompt's JSON."""
        return secrets.token_hex(8)

    @classmethod
    def execute(cls, images, format, quality, metadata=(True,)) -> io.NodeOutput:
        """Blocks until all is sent: beside an async node the host would run others, and clients go by the one running."""
        server, (format, *_), (quality, *_), (metadata, *_) = PromptServer.instance, format, quality, metadata
        client_id = server.client_id
        browser = cls.hidden.comfy_usage_source == "comfyui-frontend" or frames.is_browser(server, client_id)
        if client_id in server.sockets and not browser and not frames.takes(server, client_id, format):
            raise ValueError("This client can't take webp: it didn't announce supports_preview_metadata. Use jpeg or png.")
        for batch in images:
            picture_file.check(batch, format)
        told = metadata and not args.disable_metadata
        carried = picture_file.metadata(format, *((cls.hidden.prompt, cls.hidden.extra_pnginfo) if told else (None, None)))

        def encode(picture):
            return None if processing_interrupted() else picture_file.encode(picture, format, quality, carried)

        with ThreadPoolExecutor() as threads:
            files = list(threads.map(encode, (picture for batch in images for picture in batch)))
        throw_exception_if_processing_interrupted()
        if browser:  # it paints a frame on whatever graph is open, and forgets it; these stay with the graph that was run
            return io.NodeOutput(ui={"sent": [], "images": [temporary(file) for file in files]})
        delivery = deliver(server, client_id, files, cls.about())
        told = {"sent": asyncio.run_coroutine_threadsafe(delivery, server.loop).result()}
        if not frames.takes_metadata(server, client_id):  # it may be one that looks into /history alone
            told["images"] = for_a_while(server.loop, files)
        return io.NodeOutput(ui=told)

    @classmethod
    def about(cls) -> dict:
        """Which node of which prompt this is, by the names of the host's own metadata frame."""
        node_id, prompt = cls.hidden.unique_id, cls.hidden.dynprompt
        return {
            "prompt_id": get_executing_context().prompt_id,
            "node_id": node_id,
            "display_node_id": prompt.get_display_node_id(node_id),
            "parent_node_id": prompt.get_parent_node_id(node_id),
            "real_node_id": prompt.get_real_node_id(node_id),
        }


def temporary(file: picture_file.PictureFile) -> dict:
    """Writes the file where Preview Image's are, until ComfyUI ends: what /view and /history call it."""
    folder, name = Path(folder_paths.get_temp_directory()), f"vega_{secrets.token_hex(8)}.{file.format}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / name).write_bytes(file.data)
    except OSError:  # as where the disk is full: a part of it would stay
        (folder / name).unlink(missing_ok=True)
        raise
    return {"filename": name, "subfolder": "", "type": "temp"}


def for_a_while(loop: asyncio.AbstractEventLoop, files: list[picture_file.PictureFile]) -> list[dict]:
    """Writes them as temporary() does, and deletes them when those in memory end. A disk that takes none is no failure."""
    entries, folder = [], Path(folder_paths.get_temp_directory())
    for file in files:
        try:
            entries.append(temporary(file))
        except OSError as error:
            why = f"{folder} can't be written ({error.strerror})"
            logging.warning("Send Image (Vega): %s, so /history names only the pictures in memory.", why)
            break
    paths = [folder / entry["filename"] for entry in entries]
    loop.call_soon_threadsafe(loop.call_later, sent.SECONDS, delete, paths)
    return entries


def delete(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)  # the folder may have been emptied
        except OSError as error:
            logging.warning("Send Image (Vega): %s stays until ComfyUI ends (%s).", path, error.strerror)


async def deliver(server, client_id, files, about) -> list[dict]:
    """Keeps and sends the pictures, on the server's loop: what /history says of each."""
    if take := getattr(server.sockets.get(client_id), "take_pictures", None):  # the API's own, which answers with them
        take(files, about)
        return []
    entries = [sent.pictures.keep(file) for file in files]
    await frames.send(server, client_id, files, about)
    return entries
