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
    """number -> a Batch of prompts in a new order in each epoch, with empty latents of a square of `side` pixels."""

    def __init__(self, prompts: list[str], texts, batch_size: int, side: int, seed: int, device: torch.device):
        self.prompts, self.texts, self.side, self.device = prompts, texts, side, device
        self.batches = Batches([(side, side)] * len(prompts), [1] * len(prompts), batch_size, seed)

    def __call__(self, number: int) -> Batch:
        context, pooled = self.texts([self.prompts[index] for index in self.batches(number)])
        cells, side = self.side // PIXELS_PER_LATENT, self.side
        latents = torch.zeros(len(context), 4, cells, cells, device=self.device)
        time_ids = torch.tensor([[side, side, 0, 0, side, side]] * len(context), device=self.device)
        text = context.to(self.device), None if pooled is None else pooled.to(self.device)
        return Batch(latents, latents, torch.zeros(len(context), dtype=torch.long, device=self.device), text, time_ids)
