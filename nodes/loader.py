"""Load Vega."""

from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..vega import checkpoint
from .lazy_list import LazyList
from .model_folders import diffusers_folder, diffusers_folders

EMBEDDED = "vega-nano (embedded)"


def names() -> list[str]:
    """Everything that can be loaded."""
    return [EMBEDDED, *sorted(diffusers_folders()), *checkpoints()]


def checkpoints() -> list[str]:
    """Every file in models/checkpoints, as it is saved in a workflow: with / on every system."""
    return [Path(name).as_posix() for name in folder_paths.get_filename_list("checkpoints")]


def located(model_name: str) -> Path:
    """The folder or file of a name in the list; ValueError where it is no longer there."""
    if model_name == EMBEDDED:
        return checkpoint.NANO
    if model_name.endswith("/"):
        path = diffusers_folder(model_name)
    else:
        path = folder_paths.get_full_path("checkpoints", model_name)
    if path is None:
        where = "models/diffusers" if model_name.endswith("/") else "models/checkpoints"
        raise ValueError(f"There is no model {model_name!r} in {where}. Put it there, or press R and choose another.")
    return Path(path)


def missing(find: Callable[[str], Path], name: str | None) -> bool | str:
    """For validate_inputs: why nothing is found under this name, else True; a name that comes over a link is None yet."""
    if name is not None and not isinstance(name, str):
        return f"{name!r} is no name. Choose one from the list."
    try:
        return name is None or bool(find(name))
    except ValueError as error:
        return str(error)


class VegaLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="VegaLoader",
            display_name="Load Vega",
            category="Vega",
            description="Loads Segmind-Vega, or another model of the SDXL and SD 1.5 families, complete or not at all.",
            search_aliases=["segmind vega", "vega rt", "ssd-1b", "small-sd", "load checkpoint", "diffusers"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=LazyList.of(names),
                    tooltip="vega-nano comes with this pack and draws small landscapes. Names ending in / are diffusers "
                    "folders in models/diffusers, the others files in models/checkpoints.",
                ),
                io.Combo.Input(
                    "vae",
                    options=["tiny", "full"],
                    tooltip="tiny (TAESD, from the model or from models/vae_approx) decodes in milliseconds; full is the "
                    "model's own autoencoder, slower and finer.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The UNet."),
                io.Clip.Output(tooltip="The text encoders."),
                io.Vae.Output(tooltip="The autoencoder, tiny or full."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name):
        """Says what to do, where ComfyUI's own check would only list the names that there are."""
        return missing(located, model_name)

    @classmethod
    def execute(cls, model_name, vae) -> io.NodeOutput:
        names = folder_paths.get_filename_list("vae_approx")
        # The host lists links that lead nowhere, too.
        approx = {n: Path(path) for n in names if (path := folder_paths.get_full_path("vae_approx", n))}
        return io.NodeOutput(*checkpoint.load(located(model_name), vae, embedding_folders(), approx))


def embedding_folders() -> list[str]:
    return folder_paths.get_folder_paths("embeddings")
