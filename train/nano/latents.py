"""The data set of the base: latents of every size, mirrored at random, with captions and size ids."""

import random
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..files import atomic_write, fingerprint
from ..images import to_tensor
from ..text_encoding import load_tokenizers, tokenize
from . import autoencoder, render
from .captions import caption, corrupt
from .scenes import split

# (width, height) in pixels: share of the pictures. The native size and the smallest square have the largest: the one is
# what most draw, and in the other a house is hardly larger than two latents.
SIZES = {
    (256, 256): 0.25,
    (192, 192): 0.08,
    (128, 128): 0.20,
    (160, 160): 0.04,
    (320, 320): 0.05,
    (256, 192): 0.04,
    (192, 256): 0.04,
    (320, 256): 0.03,
    (256, 320): 0.03,
    (320, 192): 0.035,
    (192, 320): 0.035,
    (256, 128): 0.03,
    (128, 256): 0.03,
    (320, 128): 0.03,
    (128, 320): 0.03,
    (192, 128): 0.025,
    (128, 192): 0.025,
}
CAPTION_DROPOUT = 0.1


class RenderedPictures(Dataset):
    """The first `count` training pictures of one size, as [3, H, W] tensors."""

    def __init__(self, count: int, width: int, height: int):
        self.count, self.size, self.scenes = count, (width, height), split()[0]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return to_tensor([render.sample(index, self.scenes, *self.size)[1]])[0]


def encode_all(work: Path, count: int) -> dict[tuple[int, int], torch.Tensor]:
    """{(width, height): [N, 4, H/8, W/8]} of about `count` training pictures, kept in work, a file for each size.

    The files' folder is of this autoencoder and this code, so that latents of others are not taken for theirs.
    """
    bank, made_of = {}, [*sorted((work / "autoencoder-sharp").glob("*.safetensors")), Path(render.__file__)]
    folder = work / f"latents-{fingerprint(made_of)}"
    for (width, height), share in tqdm(SIZES.items(), desc="latents"):
        number = max(2, round(share * count))
        file = folder / f"{number} of {width}x{height}.safetensors"
        if not file.exists():
            with atomic_write(file) as partial:
                save_file({"latents": encode_bucket(work, number, width, height)}, partial)
        bank[width, height] = load_file(file)["latents"]
    return bank


def encode_bucket(work: Path, count: int, width: int, height: int) -> torch.Tensor:
    vae = autoencoder.to_device(AutoencoderTiny.from_pretrained(work / "autoencoder-sharp"))
    loader = DataLoader(RenderedPictures(count, width, height), batch_size=16, num_workers=1)
    with torch.no_grad(), Accelerator().autocast():
        latents = [autoencoder.encode(vae, pixels).cpu() for pixels in loader]
    return torch.cat(latents).contiguous()


def size_ids(width: int, height: int, rng: np.random.Generator, batch: int) -> torch.Tensor:
    """[batch, 6] SDXL size conditioning: mostly the true one; in 30 % a random size, so that other sizes do no harm."""
    rows = np.tile([height, width, 0, 0, height, width], (batch, 1))
    random_size = rng.random(batch) < 0.3
    sizes = rng.integers(64, 1025, (random_size.sum(), 2))
    rows[random_size] = np.concatenate([sizes, np.zeros_like(sizes), sizes], axis=1)
    return torch.from_numpy(rows)


class LatentBatches:
    """Endless training batches; each is a function of its step number alone."""

    def __init__(self, work: Path, tokenizer_folder: Path, count: int):
        self.bank = encode_all(work, count)
        self.scenes, _ = split()
        self.tokenizers = load_tokenizers(tokenizer_folder)

    def __call__(self, step: int, size: int, low_resolution: bool = False, noisy_captions: bool = False):
        """Clean latents [B, 4, h, w], two [B, 77] id tensors and [B, 6] size ids, all pictures of one random size.

        B is `size` up to the native area and shrinks with larger ones; `low_resolution` asks for sizes below the native
        one, `noisy_captions` for captions with mistakes.
        """
        rng, words = np.random.default_rng(step), random.Random(step)
        shares = {s: p for s, p in SIZES.items() if not low_resolution or s[0] * s[1] < render.SIZE**2}
        keys, weights = list(shares), np.array(list(shares.values()))
        width, height = keys[rng.choice(len(keys), p=weights / weights.sum())]
        bank = self.bank[width, height]
        size = round(size * min(1.0, render.SIZE**2 / (width * height)))
        picked = rng.integers(0, len(bank), size)
        scenes = [render.scene_at(int(i), self.scenes) for i in picked]
        if noisy_captions:
            scenes = [corrupt(scene, words) for scene in scenes]
        texts = ["" if words.random() < CAPTION_DROPOUT else caption(scene, words) for scene in scenes]
        clean = bank[picked]
        mirrored = torch.from_numpy(rng.random(size) < 0.5)
        clean[mirrored] = clean[mirrored].flip(-1)
        ids = tokenize(self.tokenizers, texts)
        return clean, ids, size_ids(width, height, rng, size)
