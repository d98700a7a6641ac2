"""Load Vega."""

from comfy_api.v0_0_2 import io

from ..vega import checkpoint, known_words, model_facts, trained_size
from . import face_notes, model_lists
from .lazy_list import LazyList


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
                    options=LazyList.of(model_lists.model_names),
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
        return model_lists.validate(model_lists.model_path, model_name)

    @classmethod
    def execute(cls, model_name, vae) -> io.NodeOutput:
        path, approx = model_lists.model_path(model_name), model_lists.vae_approx_files()
        model, clip, autoencoder = checkpoint.load(path, vae, model_lists.embedding_folders(), approx)
        known_words.hook_tokenizer(clip, warn_unknown_words)
        side = trained_size.of_model(model).side_px
        face_notes.send_notes(
            face_notes.Note("loaded", {**model_facts.of_model(model)._asdict(), "size": f"{side} x {side}"})
        )
        return io.NodeOutput(model, clip, autoencoder)


def warn_unknown_words(words: list[str]) -> None:
    """On the node whose prompt has no word that the model knows, whichever node that is."""
    face_notes.send_notes(face_notes.Note("unknown", {"words": ", ".join(words)}, is_warning=True))
