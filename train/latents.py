"""Pictures as the base sees them: latents of every size, mirrored at will, with captions and size ids."""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from . import pictures, text_encoders
from .autoencoder import as_tensor, device
from .captions import caption, mistaken
from .fitting import whole
from .scenes import split

# (width, height) in pixels: share of the pictures. The native size and its smaller, cheaper neighbour lead.
SIZES = {
    (128, 128): 0.34,
    (96, 96): 0.30,
    (128, 96): 0.06,
    (96, 128): 0.06,
    (160, 96): 0.03,
    (96, 160): 0.03,
    (192, 128): 0.035,
    (128, 192): 0.035,
    (192, 96): 0.02,
    (96, 192): 0.02,
    (160, 160): 0.04,
    (192, 192): 0.03,
}
NULL_CAPTIONS = 0.1


class Pictures(Dataset):
    """The first `count` training pictures of one size, as [3, H, W] tensors."""

    def __init__(self, count: int, width: int, height: int):
        self.count, self.size, self.scenes = count, (width, height), split()[0]

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return as_tensor([pictures.sample(index, self.scenes, *self.size)[1]])[0]


def encode(work: Path, count: int) -> dict[tuple[int, int], torch.Tensor]:
    """{(width, height): [N, 4, H/8, W/8]} of about `count` training pictures, kept in work/latents, a file for each size."""
    bank = {}
    for (width, height), share in tqdm(SIZES.items(), desc="latents"):
        number = max(2, round(share * count))
        file = work / "latents" / f"{number} of {width}x{height}.safetensors"
        if not file.exists():
            with whole(file) as partial:
                save_file({"latents": encode_size(work, number, width, height)}, partial)
        bank[width, height] = load_file(file)["latents"]
    return bank


def encode_size(work: Path, count: int, width: int, height: int) -> torch.Tensor:
    encoder = AutoencoderTiny.from_pretrained(work / "autoencoder").to(device()).encoder
    loader = DataLoader(Pictures(count, width, height), batch_size=16, num_workers=1)
    with torch.no_grad():
        return torch.cat([encoder(pixels.to(device())).cpu() for pixels in loader])


def size_ids(width: int, height: int, rng: np.random.Generator, batch: int) -> torch.Tensor:
    """[batch, 6] SDXL size conditioning: mostly the truth; in 30 % a random size, so that other sizes do no harm."""
    rows = np.tile([height, width, 0, 0, height, width], (batch, 1))
    odd = rng.random(batch) < 0.3
    rows[odd] = np.concatenate([s := rng.integers(64, 1025, (odd.sum(), 2)), np.zeros_like(s), s], axis=1)
    return torch.from_numpy(rows)


class Batches:
    """Endless training batches; each is a function of its step number alone."""

    def __init__(self, work: Path, tokenizer_folder: Path, count: int):
        self.bank = encode(work, count)
        self.scenes, _ = split()
        self.tokenizers = text_encoders.load_tokenizers(tokenizer_folder)

    def __call__(self, step: int, size: int, small: bool = False, careless: bool = False):
        """Clean latents [B, 4, h, w], two [B, 77] id tensors and [B, 6] size ids, all pictures of one random size.

        B is `size` up to the native area and shrinks with larger ones; `small` asks for sizes below the native one,
        `careless` for captions with mistakes.
        """
        rng, words = np.random.default_rng(step), random.Random(step)
        shares = {s: p for s, p in SIZES.items() if not small or s[0] * s[1] < pictures.SIZE**2}
        keys, weights = list(shares), np.array(list(shares.values()))
        width, height = keys[rng.choice(len(keys), p=weights / weights.sum())]
        bank = self.bank[width, height]
        size = round(size * min(1.0, pictures.SIZE**2 / (width * height)))
        picked = rng.integers(0, len(bank), size)
        scenes = [pictures.scene_of(int(i), self.scenes) for i in picked]
        if careless:
            scenes = [mistaken(scene, words) for scene in scenes]
        texts = ["" if words.random() < NULL_CAPTIONS else caption(scene, words) for scene in scenes]
        clean = bank[picked]
        mirrored = torch.from_numpy(rng.random(size) < 0.5)
        clean[mirrored] = clean[mirrored].flip(-1)
        ids = text_encoders.tokenize(self.tokenizers, texts)
        return clean, ids, size_ids(width, height, rng, size)
