"""What a training shows on its node: a bar, samples while it runs, and at its end what it was trained on."""

from collections.abc import Sequence
from pathlib import Path

import comfy.utils
import torch

from ..images import decode, files
from . import face_notes


class TrainingProgress:
    """Takes the events of `python -m train --progress=json`."""

    def __init__(self, steps: int):
        self.steps, self.done = steps, 0
        self.pictures, self.prompts, self.left_out = 0, 0, []
        self.bar = comfy.utils.ProgressBar(steps)

    def show(self, event: dict) -> None:
        kind = event["event"]
        if kind == "pictures":
            self.pictures, self.left_out = event["count"], event["left_out"]
        elif kind == "prompts":
            self.prompts = event["count"]
        elif kind == "score":
            self.bar.update_absolute(self.steps, self.steps)
        elif kind == "progress":  # what comes before the first step, or after the last
            self.bar.update_absolute(event["done"], event["total"])
        elif kind == "step":
            self.done = event["step"]
            self.bar.update_absolute(self.done, self.steps)
        elif kind == "samples":
            sheet = files.open_rgb(Path(event["file"]))
            self.bar.update_absolute(self.done, self.steps, ("JPEG", sheet, max(sheet.size)))

    def notes(self, file: str) -> list[face_notes.Note]:
        about = {"file": file, "steps": self.steps}
        if self.prompts:
            found = [face_notes.Note("trainedOnPrompts", {**about, "count": self.prompts})]
        else:
            found = [face_notes.Note("trained", {**about, "count": self.pictures})]
        if self.left_out:
            values = {"count": len(self.left_out), "name": self.left_out[0][0]}
            found.append(face_notes.Note("leftOut", values, is_warning=True))
        return found


def last_picture(run: Path, patterns: Sequence[str]) -> torch.Tensor:
    """IMAGE [1, H, W, 3] in 0..1: in a run's folder the last file of the first of these patterns that has any."""
    found = next(sheets for pattern in patterns if (sheets := sorted(run.glob(pattern))))
    return torch.from_numpy(decode.to_float(files.open_rgb(found[-1]))[0])[None]
