"""A list of prompts, one a line, for training without pictures."""

from pathlib import Path

import torch

from .base import PIXELS_PER_LATENT
from .data import caption_file
from .data.batches import Batches
from .denoising import Batch


def read(path: Path) -> list[str]:
    """The prompts, each once; ValueError where there is none."""
    try:
        prompts = list(dict.fromkeys(caption_file.captions(path.read_bytes())))
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"--prompts {path} can't be used: {why}. Give a text file with one prompt a line.") from error
    if not prompts:
        raise ValueError(f"--prompts {path} is empty: write one prompt a line.")
    return prompts


class PromptBatches:
    """number -> a Batch of prompts in a new order in each epoch, with empty latents of a square.

    sides: of the squares, in pixels; each prompt comes with each of them.
    """

    def __init__(self, prompts: list[str], texts, batch_size: int, sides: list[int], seed: int, device: torch.device):
        self.texts, self.device = texts, device
        self.rows = [(prompt, side) for side in sides for prompt in prompts]
        self.batches = Batches([(side, side) for _, side in self.rows], [1] * len(self.rows), batch_size, seed)

    def __call__(self, number: int) -> Batch:
        prompts, sides = zip(*(self.rows[index] for index in self.batches(number)), strict=True)
        context, pooled = self.texts(list(prompts))
        side, cells = sides[0], sides[0] // PIXELS_PER_LATENT
        latents = torch.zeros(len(context), 4, cells, cells, device=self.device)
        time_ids = torch.tensor([[side, side, 0, 0, side, side]] * len(context), device=self.device)
        text = context.to(self.device), None if pooled is None else pooled.to(self.device)
        return Batch(latents, latents, torch.zeros(len(context), dtype=torch.long, device=self.device), text, time_ids)
