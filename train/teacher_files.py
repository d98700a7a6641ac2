"""What an LCM-LoRA learns from where the teacher draws it: files of its trajectories, computed as the run comes to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from . import trajectories
from .denoising import Batch
from .diffusion import Diffusion
from .guidance import Text, rows_of

TRAJECTORIES_PER_FILE = 12
SAMPLE_BATCH_SIZE = 4  # that the teacher draws
SAMPLES_PER_FILE = 200  # that are learned from until the next one: about two of each point
REPLAY_WINDOW_FILES = 32  # files that a batch may be from


class TrajectoryBuffer:
    """number -> rows of a file: one of the newest, by chance, all by the seed and the number alone.

    With every SAMPLES_PER_FILE samples a file is added, so a run can go on to more steps than it began with. compute(index)
    gives a file's tensors; each process computes another one.
    """

    def __init__(self, folder: Path, compute: Callable, seed: int, batch_size: int, accelerator: Accelerator):
        self.folder, self.compute, self.seed, self.accelerator = folder, compute, seed, accelerator
        self.total = batch_size * accelerator.num_processes
        first = accelerator.process_index * batch_size
        self.rank_slice = slice(first, first + batch_size)
        self.written = 0

    def file(self, index: int) -> Path:
        return self.folder / f"{index:05}.safetensors"

    def __call__(self, number: int, name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The file of a batch, and this process's rows [B] of its tensor `name`."""
        newest = number * self.total // SAMPLES_PER_FILE
        self.write_until(newest)
        rng = np.random.default_rng([self.seed, number])
        index = int(rng.integers(max(0, newest - REPLAY_WINDOW_FILES + 1), newest + 1))
        stored = trajectories.read(self.file(index), self.accelerator.device)
        rows = np.resize(rng.permutation(len(stored[name])), self.total)[self.rank_slice]
        return stored, torch.from_numpy(rows).to(self.accelerator.device)

    def write_until(self, index: int) -> None:
        while self.written <= index:
            mine = self.written + self.accelerator.process_index
            trajectories.write(self.file(mine), self.seed + mine, lambda mine=mine: self.compute(mine))
            self.written += self.accelerator.num_processes
            self.accelerator.wait_for_everyone()


def draw(
    unet,
    diffusion: Diffusion,
    batch: Batch,
    unconditional: Text,
    t: torch.Tensor,
    w: torch.Tensor,
    strides: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """The tensors of a file: the guided trajectories of a batch's latents, from t [B] on, and what is needed of each image.

    All of it is of the batch's images, a few at a time, so that the teacher takes no more memory than the student.
    """
    parts = []
    for rows in torch.arange(len(t), device=t.device).split(SAMPLE_BATCH_SIZE):
        texts = rows_of(batch.text, rows), rows_of(unconditional, rows)
        found = trajectories.guided_trajectories(
            unet, diffusion, batch.latents[rows], t[rows], *texts, batch.time_ids[rows], w[rows], strides[rows]
        )
        parts.append({**found, "picture": rows[found["picture"]]})
    context, pooled = batch.text
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    whole |= {"size_ids": batch.time_ids, "context": context} | ({} if pooled is None else {"pooled": pooled})
    return {name: tensor.contiguous() for name, tensor in whole.items()}


def text_of(stored: dict[str, torch.Tensor], image: torch.Tensor) -> Text:
    return stored["context"][image], stored["pooled"][image] if "pooled" in stored else None
