"""Load Vega."""

import os
from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from ..vega import checkpoint

EMBEDDED = "vega-nano (embedded)"


def diffusers_folders() -> dict[str, Path]:
    """Every diffusers folder in the model folders, under the name that it is saved by: relative, with a trailing slash."""
    found = {}
    for base in map(Path, folder_paths.get_folder_paths("diffusers")):
        for folder, _, files in os.walk(base, followlinks=True):
            if "model_index.json" in files:
                found.setdefault(Path(folder).relative_to(base).as_posix() + "/", Path(folder))
    return found


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
                    options=[EMBEDDED, *sorted(diffusers_folders())],
                    tooltip="vega-nano comes with this pack and draws small landscapes. Names ending in / are diffusers "
                    "folders in models/diffusers.",
                ),
                io.Combo.Input(
                    "vae",
                    options=["tiny", "full"],
                    tooltip="tiny (TAESD) decodes in milliseconds; full is the model's own autoencoder, slower and finer.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The UNet."),
                io.Clip.Output(tooltip="The text encoders."),
                io.Vae.Output(tooltip="The autoencoder, tiny or full."),
            ],
        )

    @classmethod
    def execute(cls, model_name, vae) -> io.NodeOutput:
        folder = checkpoint.NANO if model_name == EMBEDDED else diffusers_folders().get(model_name)
        if folder is None:
            raise ValueError(f"There is no model {model_name!r} in models/diffusers: refresh the page and choose another.")
        return io.NodeOutput(*checkpoint.load(folder, vae, folder_paths.get_folder_paths("embeddings")))
