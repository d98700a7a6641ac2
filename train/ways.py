"""What an LCM-LoRA learns from: the ways by which a guided teacher takes noised latents down to clean ones, by DDIM.

They lie on the disk, so that each point of a way can be learned from more than once: finding one takes half as long as
learning from it.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .fitting import whole
from .text_to_image import NOISE, evenly, predicted

# w; the guidance scale is 1 + w. With it a perfect student of vega-nano would come closest to the real pictures: on 256
# prompts their distance was 15.7, with 4 20.2.
GUIDANCE = 3.0
DDIM_STEP = 100  # timesteps that the teacher goes down at once
FROM_NOISE = 2  # one way in so many begins at pure noise, as every picture that is sampled does
PICTURES = 24  # of a file, one way each; fewer of large ones


class Diffusion:
    """The forward process of an epsilon-predicting SDXL checkpoint, and its reverse."""

    def __init__(self, device: torch.device):
        self.alphas_cumprod = DDPMScheduler(**NOISE).alphas_cumprod.to(device)

    def coefficients(self, t):
        a = self.alphas_cumprod[t][:, None, None, None]
        return a.sqrt(), (1 - a).sqrt()

    def noised(self, clean, noise, t):
        a, s = self.coefficients(t)
        return a * clean + s * noise

    def clean(self, noisy, epsilon, t):
        a, s = self.coefficients(t)
        return (noisy - s * epsilon) / a


def starts(count: int) -> torch.Tensor:
    """[count] timesteps for ways to begin at; mostly late ones, as every way passes the early ones."""
    pure = count // FROM_NOISE
    return torch.cat([torch.full((pure,), 999), (1000 * evenly(count - pure) ** 0.5).long().clamp(1, 999)])


def way(teacher: Callable, diffusion: Diffusion, clean: torch.Tensor, t: torch.Tensor) -> dict[str, torch.Tensor]:
    """Goes from clean [B, 4, h, w], noised to timesteps t [B], down to t = 0.

    teacher(x, t, which) predicts the noise in x, which belongs to the pictures `which` of the B. Returns the points x
    [N, 4, h, w], their t [N], the picture of each [N], and the clean latents [B, 4, h, w] in which the ways end.
    """
    noise = torch.randn(clean.shape).to(clean.device)
    x = torch.where((t == 999)[:, None, None, None], noise, diffusion.noised(clean, noise, t))
    left, ends, points = torch.arange(len(clean), device=clean.device), torch.empty_like(clean), []
    while len(left):
        points.append((x, t, left))
        epsilon = teacher(x, t, left)
        seen, after = diffusion.clean(x, epsilon, t), (t - DDIM_STEP).clamp(min=0)
        # One DDIM step (Song et al. 2020, eq. 12); where it arrives, the clean latent itself.
        x, arrived = diffusion.noised(seen, epsilon, after), after == 0
        ends[left[arrived]] = seen[arrived]
        x, t, left = x[~arrived], after[~arrived], left[~arrived]
    x, t, picture = (torch.cat(part) for part in zip(*points, strict=True))
    return {"x": x, "t": t, "picture": picture, "end": ends}


class Ways:
    """Ways of a UNet of the SDXL family, `count` files of them in a folder, made where they are not there yet.

    encoders takes two [B, 77] token id tensors to (context, pooled); batch_of(step, size) gives clean latents
    [B, 4, h, w], the token ids and [B, 6] size ids.
    """

    def __init__(self, folder: Path, count: int, unet, encoders: Callable, batch_of: Callable, seed: int):
        self.files = [folder / f"{i}.safetensors" for i in range(count)]
        self.device = unet.device
        diffusion = Diffusion(unet.device)
        for i, file in enumerate(tqdm(self.files, desc=folder.name, mininterval=10)):
            if not file.exists():
                with whole(file) as partial, torch.random.fork_rng(), torch.no_grad():
                    torch.manual_seed(seed + i)
                    save_file(self.made(diffusion, unet, encoders, *batch_of(i, PICTURES)), partial)

    def made(self, diffusion: Diffusion, unet, encoders, clean, ids, sizes) -> dict[str, torch.Tensor]:
        texts = [encoders([i.to(self.device) for i in some]) for some in (ids, empty(ids))]
        sizes = sizes.to(self.device)

        def teacher(x, t, picture):
            conditional, unconditional = (
                predicted(unet, x, t, (context[picture], pooled[picture]), sizes[picture]) for context, pooled in texts
            )
            return conditional + GUIDANCE * (conditional - unconditional)

        found = way(teacher, diffusion, clean.to(self.device), starts(len(clean)).to(self.device))
        return {**found, "ids": ids[0], "ids_2": ids[1], "sizes": sizes}

    def some(self, rng: np.random.Generator, points: int):
        """Points of random pictures of one file: x, t, the clean latents that they lead to, two token id tensors, size ids.

        There are `points` of them where the file has all its pictures, and fewer of large ones. A broken file ends the run
        with a sentence.
        """
        file = self.files[rng.integers(len(self.files))]
        try:
            found = {k: v.to(self.device) for k, v in load_file(file).items()}
        except SafetensorError as error:
            sys.exit(f"{file} is broken ({error}): delete it and run the stage again, which makes it anew and goes on")
        share = len(found["end"]) / PICTURES
        chosen = torch.from_numpy(rng.permutation(len(found["t"]))[: max(1, round(points * share))]).to(self.device)
        picture = found["picture"][chosen]
        ids = [found[name][picture] for name in ("ids", "ids_2")]
        return found["x"][chosen], found["t"][chosen], found["end"][picture], ids, found["sizes"][picture]


def empty(ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """Token ids of the empty prompt: begin, end, and whatever each encoder pads with."""
    null = []
    for i, pad in zip(ids, (49407, 0), strict=True):
        row = torch.full_like(i, pad)
        row[:, 0], row[:, 1] = 49406, 49407
        null.append(row)
    return null
