"""What a training shows on its node: a bar, samples while it runs, and at its end what it was trained on."""

from pathlib import Path

import comfy.utils
import torch

from ..images import decode, files
from . import face_notes


class TrainingProgress:
    """Takes the events of `python -m train lora --progress=json`."""

    def __init__(self, steps: int):
        self.steps, self.done = steps, 0
        self.pictures, self.left_out = 0, []
        self.bar = comfy.utils.ProgressBar(steps)

    def show(self, event: dict) -> None:
        kind = event["event"]
        if kind == "pictures":
            self.pictures, self.left_out = event["count"], event["left_out"]
        elif kind == "progress":  # what comes before the first step
            self.bar.update_absolute(event["done"], event["total"])
        elif kind == "step":
            self.done = event["step"]
            self.bar.update_absolute(self.done, self.steps)
        elif kind == "samples":
            sheet = files.open_rgb(Path(event["file"]))
            self.bar.update_absolute(self.done, self.steps, ("JPEG", sheet, max(sheet.size)))

    def notes(self, file: str) -> list[face_notes.Note]:
        found = [face_notes.Note("trained", {"file": file, "count": self.pictures, "steps": self.steps})]
        if self.left_out:
            values = {"count": len(self.left_out), "name": self.left_out[0][0]}
            found.append(face_notes.Note("leftOut", values, is_warning=True))
        return found


def last_picture(run: Path, has_samples: bool) -> torch.Tensor:
    """IMAGE [1, H, W, 3] in 0..1: the last sample sheet in a run's folder, or the loss of its steps if it has none."""
    sheets = sorted((run / "samples").glob("*.png")) if has_samples else []
    picture = files.open_rgb(sheets[-1] if sheets else run / "loss.png")
    return torch.from_numpy(decode.to_float(picture)[0])[None]
