"""Apply LCM-LoRA (Vega)."""

import logging
from pathlib import Path

from comfy_api.v0_0_2 import io

from ..vega import few_step_adapters, lora, recipes, weights
from . import face_notes, lcm_lora_files, model_lists
from .lazy_list import LazyList

ETA_FROM_RECIPE = -1.0
# What told the recipe -> the note that says so.
RECIPE_NOTES = {
    "digest": "recipeByDigest",
    "metadata": "recipeByMetadata",
    "name": "recipeByName",
    "user": "recipeChosen",
    "": "recipeUnknown",
}


class VegaLCMLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLCMLora",
            display_name="Apply LCM-LoRA (Vega)",
            category="Vega",
            description="Makes a model draw in 1 to 8 steps: puts on an LCM-LoRA or other few-step LoRA whole, and sets how "
            "it is drawn.",
            search_aliases=["lcm", "vega rt", "lora", "few step", "turbo", "dmd2", "hyper-sd", "lightning", "tcd", "pcm"],
            inputs=[
                io.Model.Input("model", tooltip="The base that the LCM-LoRA was distilled from."),
                io.Combo.Input(
                    "lora_name",
                    options=LazyList.of(lcm_lora_files.names),
                    tooltip="The LCM-LoRA or other few-step LoRA made for this base, from models/loras. One for another "
                    "base is refused. If the checkpoint has one fused in, choose none here and its recipe below.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="1.0 is the trained strength; 0 leaves the model as it is.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=[recipes.AUTO, *recipes.BY_NAME],
                    default=recipes.AUTO,
                    optional=True,
                    tooltip="How its makers draw with it. auto tells by the file: by its contents if it is a published one, "
                    "by its metadata, or by its name; else it takes LCM. Where none of these tells, choose the recipe. DMD2 "
                    "and Flash Diffusion are for non-commercial use alone.",
                ),
                io.Float.Input(
                    "eta",
                    default=ETA_FROM_RECIPE,
                    min=ETA_FROM_RECIPE,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How much of the noise is new at each step of TCD and Hyper-SD 1-step, from 0 to 1. -1 is what "
                    "their makers take: 0.3 and 1.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The few-step model, for KSampler (Vega LCM).")],
        )

    @classmethod
    def validate_inputs(cls, lora_name):
        return model_lists.validate(lcm_lora_files.path, lora_name)

    @classmethod
    def fingerprint_inputs(cls, lora_name, **inputs):
        """Which file it is, so that one in its place is read; a name that comes over a link is None yet."""
        if lora_name is None:
            return None
        path = lcm_lora_files.path(lora_name)
        if path is None:
            return None
        stat = path.stat()
        return str(path), stat.st_size, stat.st_mtime_ns

    @classmethod
    def execute(cls, model, lora_name, strength_model, recipe=recipes.AUTO, eta=ETA_FROM_RECIPE) -> io.NodeOutput:
        path, eta = lcm_lora_files.path(lora_name), None if eta == ETA_FROM_RECIPE else eta
        if path is None:
            return io.NodeOutput(apply_recipe(model, strength_model, recipe, eta))
        choice = few_step_adapters.choose(path, weights.read_metadata(path), recipe)
        patched = lora.apply(model, path, strength_model, choice, eta)
        modules = len(lora.recipe_targets(model, choice.recipe)) if strength_model else 0
        notes = [face_notes.lora_note(modules, strength_model)]
        if lora_name != model_lists.EMBEDDED_LORA and path.name != Path(lora_name).name:
            logging.info("Apply LCM-LoRA (Vega): %s is %s, by its contents", lora_name, path.name)
            notes.append(face_notes.Note("foundFile", {"name": lora_name, "file": path.name}))
        if strength_model and (lora_name, recipe) != (model_lists.EMBEDDED_LORA, recipes.AUTO):
            notes += recipe_notes(choice.recipe, choice.evidence)
        face_notes.send_notes(*notes)
        return io.NodeOutput(patched)


def apply_recipe(model, strength, recipe, eta):
    """The model with a recipe alone, for a checkpoint that has its adapter in it, at any strength except 0."""
    if not strength:
        face_notes.send_notes(face_notes.lora_note(0, 0.0))
        return model
    if recipe == recipes.AUTO:
        raise ValueError("There is no LoRA to tell the recipe by: set recipe to that of the adapter in the checkpoint.")
    patched = lora.with_recipe(model, recipes.by_name(recipe), eta)
    face_notes.send_notes(*recipe_notes(recipes.by_name(recipe), "user"))
    return patched


def recipe_notes(recipe: recipes.Recipe, evidence: str) -> list[face_notes.Note]:
    """What the model is drawn by and what told, and a licence that forbids commercial use."""
    notes = [face_notes.Note(RECIPE_NOTES[evidence], {"recipe": recipe.name})]
    if recipe.licence:
        notes.append(face_notes.Note("licence", {"recipe": recipe.name, "licence": recipe.licence}, is_warning=True))
    return notes
