"""The batch of a number and a process: cached latents and captions, with noise that depends on nothing else."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from .cache import Cache, latent_key, text_key
from .data.batches import Batches
from .data.buckets import bucket_of, sizes
from .data.dataset import TrainingImage
from .denoising import Batch
from .text_encoding import encode, tokenize
from .timesteps import sample_timestep


class CachedTexts:
    """captions -> (context [B, 77, D], pooled [B, D] or None), from the cache."""

    def __init__(self, cache: Cache, fingerprint: str, dtype: torch.dtype):
        self.cache, self.fingerprint, self.dtype = cache, fingerprint, dtype

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        texts = [self.cache.load(text_key(caption, self.fingerprint, self.dtype)) for caption in captions]
        pooled = torch.stack([text["pooled"] for text in texts]) if "pooled" in texts[0] else None
        return torch.stack([text["context"] for text in texts]), pooled


class EncodedTexts:
    """The same from text encoders, which may be learning."""

    def __init__(self, encoders: list, tokenizers: list):
        self.encoders, self.tokenizers = encoders, tokenizers

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        device = self.encoders[0].device
        return encode(self.encoders, [ids.to(device) for ids in tokenize(self.tokenizers, captions)])


class Examples:
    """number -> the Batch of this process. A row's noise, timestep and so on are drawn from (seed, number, row) alone.

    So two processes with batches of four see what one with batches of eight does.
    """

    def __init__(
        self,
        pictures: list[TrainingImage],
        resolutions: list[int],
        cache: Cache,
        vae: str,
        texts: Callable[[list[str]], tuple],
        batch_size: int,
        seed: int,
        caption_dropout: float = 0.0,
        random_flip: bool = False,
        process: int = 0,
        processes: int = 1,
        device: torch.device | str = "cpu",
        timestep_weights: torch.Tensor | None = None,
        noise_offset: float = 0.0,
    ):
        """Each picture is in one bucket of each of the resolutions."""
        self.pictures, self.buckets = pictures * len(resolutions), []
        for buckets in map(sizes, resolutions):
            self.buckets += [bucket_of(p.width, p.height, buckets) for p in pictures]
        self.cache, self.vae, self.texts, self.device = cache, vae, texts, device
        self.batches = Batches(self.buckets, [p.repeats for p in self.pictures], batch_size * processes, seed)
        self.rows = range(process * batch_size, (process + 1) * batch_size)
        self.seed, self.caption_dropout, self.random_flip = seed, caption_dropout, random_flip
        self.timestep_weights, self.noise_offset = timestep_weights, noise_offset

    def wanted(self) -> Iterable[tuple[TrainingImage, tuple[int, int], bool]]:
        """What the cache must hold: each picture in its bucket, mirrored as well where that is asked for."""
        for picture, bucket in zip(self.pictures, self.buckets, strict=True):
            yield picture, bucket, False
            if self.random_flip:
                yield picture, bucket, True

    def __call__(self, number: int) -> Batch:
        chosen, columns = self.batches(number), []
        for row in self.rows:
            generator = torch.Generator().manual_seed(row_seed(self.seed, number, row))
            drop, flip = torch.rand(2, generator=generator).tolist()
            timestep = sample_timestep(self.timestep_weights, generator)
            picture, bucket = self.pictures[chosen[row]], self.buckets[chosen[row]]
            mirrored = self.random_flip and flip < 0.5
            stored = self.cache.load(latent_key(picture, bucket, mirrored, self.vae))
            noise = random_noise(stored["latents"].shape, self.noise_offset, generator)
            caption = "" if drop < self.caption_dropout else picture.caption
            columns.append((stored["latents"], noise, timestep, stored["size_ids"], caption))
        latents, noise, timesteps, time_ids, captions = zip(*columns, strict=True)
        latents, noise, timesteps, time_ids = (
            torch.stack(column).to(self.device) for column in (latents, noise, timesteps, time_ids)
        )
        context, pooled = self.texts(list(captions))
        text = context.to(self.device), None if pooled is None else pooled.to(self.device)
        return Batch(latents, noise, timesteps, text, time_ids)


def random_noise(shape: torch.Size, offset: float, generator: torch.Generator) -> torch.Tensor:
    """[C, h, w] normal noise, and a shift of each channel's mean, normal with the standard deviation `offset`.

    The shift is diffusers' and kohya's noise_offset (Guttenberg 2023, "Diffusion with offset noise"). Without it a model can
    read in the noisiest latents how bright the picture is as a whole, which no sampler's first noise tells it.
    """
    noise = torch.randn(shape, generator=generator)
    return noise + offset * torch.randn(shape[0], 1, 1, generator=generator) if offset else noise


def row_seed(seed: int, number: int, row: int) -> int:
    return int(np.random.SeedSequence([seed, number, row]).generate_state(1, np.uint64)[0] >> 1)
