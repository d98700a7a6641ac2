"""KSampler (Vega LCM)."""

import comfy.utils
from comfy_api.v0_0_2 import io

from ..vega import lcm, recipes, trained_size
from ..vega.latent_formats import PIXELS_PER_LATENT
from ..vega.model_sampling import carried_recipe
from . import face_notes, preview


class VegaLCMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLCMSampler",
            display_name="KSampler (Vega LCM)",
            category="Vega",
            description="Draws in a few steps on the timesteps that the LCM-LoRA or other few-step LoRA was trained on. One "
            "seed is one picture on every machine, alone or in a batch.",
            search_aliases=["lcm", "few step", "sampler", "vega rt", "real time", "dmd2", "tcd", "lightning", "hyper-sd"],
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
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or a picture to change."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of latent_image to draw anew: 1 all, 0 nothing. Lower ones have room for fewer steps.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What not to draw. Needed for cfg above 1, and by patches that compare with it.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=1.0,
                    max=20.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="Guidance. 1 is what the makers of the LoRA start with: none, for most. Up to 2 for LCM and "
                    "PCM, 5 to 8 for Hyper-SD CFG, 2 to 9 for PCM normal CFG.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The drawn latent.")],
        )

    @classmethod
    def execute(
        cls, model, seed, steps, positive, latent_image, denoise, negative=None, cfg=recipes.UNSET_CFG
    ) -> io.NodeOutput:
        callback, disable_progress = preview.make_callback(model, steps), not comfy.utils.PROGRESS_BAR_ENABLED
        face_notes.send_notes(*recipe_notes(model, steps, cfg), *size_notes(model, latent_image))
        drawn = lcm.sample(model, seed, steps, positive, latent_image, denoise, callback, disable_progress, negative, cfg)
        return io.NodeOutput(drawn)


def recipe_notes(model, steps: int, cfg: float) -> list[face_notes.Note]:
    """A warning for a number of steps or a cfg that the recipe was not made for, and the makers' cfg where it is taken."""
    recipe = carried_recipe(model)
    if recipe is None:
        return []  # which is refused
    notes, guidance = [], recipe.guidance
    if steps not in recipe.steps:
        is_range = isinstance(recipe.steps, range)
        made_for = f"{recipe.steps[0]}-{recipe.steps[-1]}" if is_range else ", ".join(map(str, recipe.steps))
        notes.append(face_notes.Note("stepsMadeFor", {"recipe": recipe.name, "steps": made_for}, is_warning=True))
    values = {"recipe": recipe.name, "least": f"{guidance.min:g}", "most": f"{guidance.max:g}"}
    if cfg == recipes.UNSET_CFG and guidance.default > 1:
        notes.append(face_notes.Note("cfgOfMakers", {"recipe": recipe.name, "cfg": f"{guidance.default:g}"}))
    elif cfg > 1 and cfg < guidance.min:
        notes.append(face_notes.Note("cfgMadeFor", values, is_warning=True))
    return notes


def size_notes(model, latent_image) -> list[face_notes.Note]:
    """A warning where the model draws such sizes badly."""
    trained, samples = trained_size.of_model(model), latent_image["samples"]
    if not trained or samples.is_nested:
        return []
    ratio = latent_image.get("downscale_ratio_spacial") or PIXELS_PER_LATENT  # other families' empty latents are adapted
    height, width = (ratio * side for side in samples.shape[-2:])
    better = trained_size.suggest_size(width, height, trained)
    if not better:
        return []
    sizes = {"size": f"{width} x {height}", "better": f"{better[0]} x {better[1]}"}
    return [face_notes.Note("size", sizes, is_warning=True)]
