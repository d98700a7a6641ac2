"""A training from its node's settings to the picture on its face: the host's models make room, and a process trains."""

import comfy.model_management
from comfy_api.v0_0_2 import io, ui

from . import face_notes, model_lists, training_folders, training_process, training_progress

MAX_SAVE_EVERY_STEPS, SAMPLE_SHEETS_PER_RUN = 100, 5  # steps between two saves; sample sheets in a run


def run(cls, command: str, model_name: str, learned_from: list[str], options: dict, *pictures: str) -> io.NodeOutput:
    """The LoRA's file name, and IMAGE [1, H, W, 3] in 0..1: the last file in the run's folder of the first of these
    patterns that has any.

    command and learned_from: what `python -m train` does, and from what. Its options have `name` and `steps`.
    """
    name, steps = options["name"], options["steps"]
    save_every = min(MAX_SAVE_EVERY_STEPS, max(1, steps // SAMPLE_SHEETS_PER_RUN))
    options |= dict(
        save_every=save_every,
        sample_every=save_every * max(1, steps // (SAMPLE_SHEETS_PER_RUN * save_every)),
        output_dir=training_folders.output(),
        work=training_folders.work(),
        progress="json",
    )
    base = "vega-nano" if model_name == model_lists.EMBEDDED_MODEL else model_lists.model_path(model_name)
    given = [command, str(base), *learned_from, *training_process.command_line(options)]
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    progress, file = training_progress.TrainingProgress(steps), f"{name}.safetensors"
    training_process.run(given, training_folders.work() / f"{name}.log", progress.show)
    face_notes.send_notes(*progress.notes(file))
    picture = training_progress.last_picture(training_folders.work() / name, pictures)
    return io.NodeOutput(file, picture, ui=ui.PreviewImage(picture, cls=cls))
