"""What an LCM-LoRA learns from: DDIM trajectories of a guided teacher, from noised latents down to clean ones.

They are cached on disk, so that each point can be learned from more than once: computing a trajectory takes half as
long as learning from it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .diffusion import NUM_TRAIN_TIMESTEPS, Diffusion, predict_noise, stratified_uniform
from .files import atomic_write
from .text_encoding import empty_prompt_ids

# w of the LCM paper; the guidance scale is 1 + w. With it a perfect student of vega-nano would come closest to the real
# pictures: on 256 prompts their distance was 15.7, with 4 20.2.
GUIDANCE = 3.0
DDIM_STEP_TIMESTEPS = 100
PURE_NOISE_FRACTION = 0.5  # of the trajectories; sampling always begins at pure noise
IMAGES_PER_FILE = 24  # one trajectory each; fewer of large ones
LAST_TIMESTEP = NUM_TRAIN_TIMESTEPS - 1


def start_timesteps(count: int) -> torch.Tensor:
    """[count] timesteps to start trajectories at; mostly late ones, as every trajectory passes the early ones."""
    pure = int(count * PURE_NOISE_FRACTION)
    uniform = stratified_uniform(count - pure)
    return torch.cat(
        [torch.full((pure,), LAST_TIMESTEP), (NUM_TRAIN_TIMESTEPS * uniform**0.5).long().clamp(1, LAST_TIMESTEP)]
    )


def ddim_trajectories(
    teacher: Callable, diffusion: Diffusion, clean: torch.Tensor, t: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Denoises clean latents [B, 4, h, w], noised to timesteps t [B], down to t = 0.

    teacher(x, t, image) predicts the noise in x, which belongs to the images `image` of the B. Returns the points x
    [N, 4, h, w], their t [N], the image of each [N] (under "picture"), and the clean latents [B, 4, h, w] in which the
    trajectories end. Each step is DDIM's (Song et al. 2020, arXiv 2010.02502, eq. 12).
    """
    noise = torch.randn(clean.shape).to(clean.device)
    x = torch.where((t == LAST_TIMESTEP)[:, None, None, None], noise, diffusion.add_noise(clean, noise, t))
    active, ends, points = torch.arange(len(clean), device=clean.device), torch.empty_like(clean), []
    while len(active):
        points.append((x, t, active))
        epsilon = teacher(x, t, active)
        original, next_t = diffusion.pred_original_sample(x, epsilon, t), (t - DDIM_STEP_TIMESTEPS).clamp(min=0)
        x, finished = diffusion.add_noise(original, epsilon, next_t), next_t == 0
        ends[active[finished]] = original[finished]
        x, t, active = x[~finished], next_t[~finished], active[~finished]
    x, t, image = (torch.cat(part) for part in zip(*points, strict=True))
    return {"x": x, "t": t, "picture": image, "end": ends}


class TrajectoryCache:
    """Trajectories of a UNet of the SDXL family: `count` files in a folder, computed where they do not exist yet.

    encoders takes two [B, 77] token id tensors to (context, pooled); get_batch(step, size) gives clean latents
    [B, 4, h, w], the token ids and [B, 6] size ids.
    """

    def __init__(self, folder: Path, count: int, unet, encoders: Callable, get_batch: Callable, seed: int):
        self.files = [folder / f"{i}.safetensors" for i in range(count)]
        self.device = unet.device
        diffusion = Diffusion(unet.device)
        for i, file in enumerate(tqdm(self.files, desc=folder.name, mininterval=10)):
            if not file.exists():
                with atomic_write(file) as partial, torch.random.fork_rng(), torch.no_grad():
                    torch.manual_seed(seed + i)
                    save_file(self.compute(diffusion, unet, encoders, *get_batch(i, IMAGES_PER_FILE)), partial)

    def compute(self, diffusion: Diffusion, unet, encoders, clean, ids, size_ids) -> dict[str, torch.Tensor]:
        """The content of one file: `ddim_trajectories` with classifier-free guidance, and the conditioning of each image."""
        texts = [encoders([i.to(self.device) for i in prompt]) for prompt in (ids, empty_prompt_ids(ids))]
        size_ids = size_ids.to(self.device)

        def teacher(x, t, image):
            conditional, unconditional = (
                predict_noise(unet, x, t, (context[image], pooled[image]), size_ids[image]) for context, pooled in texts
            )
            return conditional + GUIDANCE * (conditional - unconditional)

        trajectories = ddim_trajectories(
            teacher, diffusion, clean.to(self.device), start_timesteps(len(clean)).to(self.device)
        )
        return {**trajectories, "ids": ids[0], "ids_2": ids[1], "sizes": size_ids}

    def sample(self, rng: np.random.Generator, count: int):
        """Random points of one file: x, t, the clean latents at their trajectories' ends, two token id tensors, size ids.

        There are `count` of them where the file has all its images, and fewer of large ones. A broken file ends the run
        with a sentence.
        """
        file = self.files[rng.integers(len(self.files))]
        try:
            stored = {k: v.to(self.device) for k, v in load_file(file).items()}
        except SafetensorError as error:
            sys.exit(f"{file} is broken ({error}): delete it and run the stage again, which makes it anew and goes on")
        share = len(stored["end"]) / IMAGES_PER_FILE
        count = max(1, round(count * share))
        chosen = torch.from_numpy(rng.permutation(len(stored["t"]))[:count]).to(self.device)
        image = stored["picture"][chosen]
        ids = [stored[name][image] for name in ("ids", "ids_2")]
        return stored["x"][chosen], stored["t"][chosen], stored["end"][image], ids, stored["sizes"][image]
