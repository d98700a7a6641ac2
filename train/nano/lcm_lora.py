"""Stage 5: the LCM-LoRA, which learns where the base's guided trajectories end.

Its settings are fitted to vega-nano; what they are settings of is in train/, as `python -m train lcm-lora` has it.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm import tqdm

from .. import adapters, trajectories
from ..consistency import regression_loss
from ..diffusion import Diffusion, load_unet
from ..files import fingerprint
from ..muon import Muon
from ..text_encoding import empty_prompt_ids, load_encoders
from ..training_loop import constant_then_cosine, train

# w of the LCM paper; the guidance scale is 1 + w. Of 512 held-out prompts' attributes the LoRA's pictures in four steps had
# 98.3 % with 3.5, at a Frechet distance of 23.8 from the real ones, and 97.3 % with 2.5, at 20.0.
GUIDANCE = 2.5
BATCH_SIZE = 24  # points of trajectories
IMAGES_PER_FILE = 24  # one trajectory each; fewer of large ones
EPOCHS_PER_POINT = 2  # how often each point is learned from
POINTS_PER_FILE = 200  # about
LEARNING_RATE = 3e-3
EMA_DECAY = 0.98
RANK = 32
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def distil(
    folder: Path,
    out: Path,
    get_batch: Callable,
    steps: int,
    work: Path,
    seed: int = 0,
    rank: int = RANK,
    log_samples: Callable | None = None,
    initial: Path | None = None,
) -> list[float]:
    """Distils folder's UNet into the LoRA file `out` and returns the loss of every step.

    folder holds a diffusers checkpoint (unet, text_encoder, text_encoder_2); get_batch(step, size) gives the clean
    latents [B, 4, h, w], two [B, 77] token id tensors and the [B, 6] size ids of a step. log_samples(unet, encoders)
    draws what was learned so far. The LoRA begins with the weights of the file `initial`, if there is one. Work that was
    begun with other weights in folder is neither resumed nor learned from.
    """
    set_seed(seed)
    unet, encoders = load_unet(folder / "unet").requires_grad_(False), load_encoders(folder)
    diffusion = Diffusion(unet.device)
    base = fingerprint(sorted(f for name in COMPONENTS for f in (folder / name).glob("*.safetensors")))
    files = -(-steps * BATCH_SIZE // (EPOCHS_PER_POINT * POINTS_PER_FILE))
    cache = TrajectoryCache(work / f"lcm-lora-trajectories-{base}", files, unet, encoders, get_batch, seed)
    adapters.add_lcm_lora(unet, rank, rank)
    if initial:
        adapters.load_unet_weights(unet, initial)

    def compute_loss(step):
        x, t, target, ids, size_ids = cache.sample(np.random.default_rng(step), BATCH_SIZE)
        with torch.no_grad():
            text = encoders(ids)
        return regression_loss(unet, diffusion, x, t, target, text, size_ids)

    optimizer = Muon(unet, LEARNING_RATE, LEARNING_RATE)
    lr_lambda = constant_then_cosine(steps)
    show = log_samples and (lambda: log_samples(unet, encoders))
    losses = train(unet, compute_loss, optimizer, lr_lambda, work / f"lcm-lora-training-{base}", steps, EMA_DECAY, show)
    adapters.save(adapters.kohya_state_dict(unet, [], rank), out, {})
    return losses


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
            trajectories.write(
                file, seed + i, lambda i=i: self.compute(diffusion, unet, encoders, *get_batch(i, IMAGES_PER_FILE))
            )

    def compute(self, diffusion: Diffusion, unet, encoders, clean, ids, size_ids) -> dict[str, torch.Tensor]:
        """The content of one file: the guided trajectories, and the conditioning of each image."""
        text, empty = (encoders([i.to(self.device) for i in prompt]) for prompt in (ids, empty_prompt_ids(ids)))
        clean, size_ids = clean.to(self.device), size_ids.to(self.device)
        t = trajectories.start_timesteps(len(clean)).to(self.device)
        w = torch.full((len(clean),), GUIDANCE, device=self.device)
        with Accelerator().autocast():
            found = trajectories.guided_trajectories(unet, diffusion, clean, t, text, empty, size_ids, w)
        return {**found, "ids": ids[0], "ids_2": ids[1], "sizes": size_ids}

    def sample(self, rng: np.random.Generator, count: int):
        """Random points of one file: x, t, the clean latents at their trajectories' ends, two token id tensors, size ids.

        There are `count` of them where the file has all its images, and fewer of large ones.
        """
        stored = trajectories.read(self.files[rng.integers(len(self.files))], self.device)
        share = len(stored["end"]) / IMAGES_PER_FILE
        count = max(1, round(count * share))
        chosen = torch.from_numpy(rng.permutation(len(stored["t"]))[:count]).to(self.device)
        image = stored["picture"][chosen]
        ids = [stored[name][image] for name in ("ids", "ids_2")]
        return stored["x"][chosen], stored["t"][chosen], stored["end"][image], ids, stored["sizes"][image]
