"""Send Image (Vega)."""

import secrets

from comfy.cli_args import args
from comfy_api.v0_0_2 import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..images import delivery, encode

# Who queued the prompt, by its own word: ComfyUI 0.24.1 and its page don't know that yet.
USAGE_SOURCE = [io.Hidden.comfy_usage_source] if hasattr(io.Hidden, "comfy_usage_source") else []


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
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id, io.Hidden.dynprompt, *USAGE_SOURCE],
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
        browser = cls.hidden.comfy_usage_source == "comfyui-frontend" or delivery.is_browser(server, client_id)
        if not browser and not delivery.can_deliver(server, client_id, format):
            raise ValueError("This client can't take webp: it didn't announce supports_preview_metadata. Use jpeg or png.")
        for batch in images:
            encode.check_images(batch, format)
        graph = (cls.hidden.prompt, cls.hidden.extra_pnginfo) if metadata and not args.disable_metadata else (None, None)
        encoded = delivery.encode_all(images, format, quality, encode.save_kwargs(format, *graph))
        if browser:
            return io.NodeOutput(ui=delivery.to_browser(encoded))
        return io.NodeOutput(ui=delivery.to_program(server, client_id, encoded, cls.node_metadata()))

    @classmethod
    def node_metadata(cls) -> dict:
        """Which node of which prompt this is, by the names of the host's own metadata frame."""
        node_id, prompt = cls.hidden.unique_id, cls.hidden.dynprompt
        return {
            "prompt_id": get_executing_context().prompt_id,
            "node_id": node_id,
            "display_node_id": prompt.get_display_node_id(node_id),
            "parent_node_id": prompt.get_parent_node_id(node_id),
            "real_node_id": prompt.get_real_node_id(node_id),
        }
