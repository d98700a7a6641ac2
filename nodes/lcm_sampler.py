"""KSampler (Vega LCM)."""

import comfy.utils
from comfy_api.v0_0_2 import io

from ..vega import lcm, trained_size
from ..vega.latent_formats import PIXELS_PER_LATENT
from . import face_notes, preview


class VegaLCMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLCMSampler",
            display_name="KSampler (Vega LCM)",
            category="Vega",
            description="Draws in a few steps on the timesteps that the LCM-LoRA was trained on. One seed is one picture "
            "on every machine, alone or in a batch.",
            search_aliases=["lcm", "few step", "sampler", "vega rt", "real time"],
            inputs=[
                io.Model.Input("model", tooltip="A model from Apply LCM-LoRA (Vega), or any with LCM sampling."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Picture k of a batch is the picture that seed + k draws alone.",
                ),
                io.Int.Input(
                    "steps", default=4, min=1, max=50, tooltip="2 to 8 is the useful range; 1 works, more adds little."
                ),
                io.Conditioning.Input("positive", tooltip="The prompt. There is no negative: guidance is trained in."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or a picture to change."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of latent_image to draw anew: 1 all, 0 nothing. Lower ones have room for fewer steps.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The drawn latent.")],
        )

    @classmethod
    def execute(cls, model, seed, steps, positive, latent_image, denoise) -> io.NodeOutput:
        callback, disable_progress = preview.callback(model, steps), not comfy.utils.PROGRESS_BAR_ENABLED
        face_notes.say(*size_notes(model, latent_image))
        return io.NodeOutput(lcm.sample(model, seed, steps, positive, latent_image, denoise, callback, disable_progress))


def size_notes(model, latent_image) -> list[face_notes.Note]:
    """A warning where the model draws such sizes badly."""
    trained, samples = trained_size.of_model(model), latent_image["samples"]
    if not trained or samples.is_nested:
        return []
    ratio = latent_image.get("downscale_ratio_spacial") or PIXELS_PER_LATENT  # other families' empty latents are adapted
    height, width = (ratio * side for side in samples.shape[-2:])
    better = trained_size.better(width, height, trained)
    if not better:
        return []
    sizes = {"size": f"{width} x {height}", "better": f"{better[0]} x {better[1]}"}
    return [face_notes.Note("size", sizes, is_warning=True)]
