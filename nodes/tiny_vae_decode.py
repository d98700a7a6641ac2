"""VAE Decode (Vega Tiny)."""

import logging

from comfy_api.v0_0_2 import io

from ..vega import tiny_decoder
from ..vega.latent_formats import CPU_DTYPE_KEY, LATENT_FORMAT_KEY
from . import face_notes

# Of the host. Attention in fp16 overflows on some versions of macOS, and finite, black pictures come of it.
UPCAST_FLAG = "--force-upcast-attention"


class VegaTinyVAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaTinyVAEDecode",
            display_name="VAE Decode (Vega Tiny)",
            category="Vega",
            description="Turns latents into pictures with the tiny autoencoder (TAESD).",
            search_aliases=["taesd", "taesdxl", "fast decode", "vae decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latents to decode."),
                io.Vae.Input("vae", tooltip="A tiny autoencoder: Load Vega with vae set to tiny."),
            ],
            outputs=[io.Image.Output(tooltip="The pictures.")],
        )

    @classmethod
    def execute(cls, samples, vae) -> io.NodeOutput:
        latent_family, cpu_dtype = samples.get(LATENT_FORMAT_KEY), samples.get(CPU_DTYPE_KEY)
        images = tiny_decoder.decode(vae, samples["samples"], latent_family, cpu_dtype)
        if tiny_decoder.is_black(images):
            logging.warning("VAE Decode (Vega Tiny): a picture is black. On a Mac start ComfyUI with %s.", UPCAST_FLAG)
            face_notes.send_notes(face_notes.Note("black", {"flag": UPCAST_FLAG}, is_warning=True))
        return io.NodeOutput(images)
