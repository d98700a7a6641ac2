"""Latents and encoded captions on disk: computed once, found again by what they were made of, read when they are needed."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .data.buckets import resize_and_crop
from .data.dataset import TrainingImage
from .events import SILENT, Events
from .files import atomic_write
from .images import to_tensor
from .text_encoding import encode, tokenize


class Cache:
    """Named tensors under a key each, in a file each; nothing of them stays in memory."""

    def __init__(self, folder: Path):
        self.folder = folder

    def file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def __contains__(self, key: str) -> bool:
        return self.file(key).exists()

    def save(self, key: str, tensors: dict[str, torch.Tensor]) -> None:
        with atomic_write(self.file(key)) as file:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)

    def load(self, key: str) -> dict[str, torch.Tensor]:
        """ValueError for a file that is broken or gone."""
        try:
            return load_file(self.file(key))
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.file(key)} is broken ({error}): delete it and give the same command again, which makes it anew"
            ) from error


def key_of(*parts: object) -> str:
    """SHA-256 of the parts' texts; names of files that are no UTF-8 have surrogates."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def latent_key(picture: TrainingImage, bucket: tuple[int, int], mirrored: bool, vae: str) -> str:
    return key_of(picture.digest, *bucket, mirrored, vae)


def cache_latents(
    cache: Cache,
    wanted: Iterable[tuple[TrainingImage, tuple[int, int], bool]],
    fingerprint: str,
    open_vae: Callable,
    device: torch.device,
    events: Events = SILENT,
) -> None:
    """Saves the scaled "latents" [4, h, w] in fp32 and the "size_ids" [6] of each (picture, bucket, mirrored) that lack.

    Of an AutoencoderKL's distribution one sample is kept, the same in every run. ValueError for latents that are not finite.
    """
    wanted = {latent_key(*one, fingerprint): one for one in wanted}
    missing = {key: one for key, one in wanted.items() if key not in cache}
    if not missing:
        return
    vae = open_vae().to(device)
    for key, (picture, bucket, mirrored) in events.track(list(missing.items()), "latents"):
        crop = resize_and_crop(picture.decode(), bucket, mirrored)
        with torch.no_grad():
            encoded = vae.encode(to_tensor([crop.image]).to(device))
        latents = encoded.latents if hasattr(encoded, "latents") else sample_latent_dist(encoded.latent_dist, key)
        if not latents.isfinite().all():
            raise ValueError(f"{picture.name}: its latents are not finite numbers. Give another autoencoder with --vae.")
        time_ids = torch.tensor([*crop.original_size, *crop.crop_top_left, *crop.target_size])
        # Under the name that the caches on people's disks have.
        cache.save(key, {"latents": vae.config.scaling_factor * latents[0], "size_ids": time_ids})


def sample_latent_dist(distribution, key: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(key[:15], 16))
    noise = torch.randn(distribution.mean.shape, generator=generator)
    return distribution.mean + distribution.std * noise.to(distribution.mean)


def text_key(caption: str, encoders: str, dtype: torch.dtype) -> str:
    return key_of(caption, encoders, dtype)


def cache_texts(
    cache: Cache,
    captions: Iterable[str],
    fingerprint: str,
    open_encoders: Callable,
    tokenizers: list,
    device: torch.device,
    dtype: torch.dtype,
    events: Events = SILENT,
) -> None:
    """Saves the "context" [77, D] of each caption that lacks, and in SDXL's family its "pooled" [D].

    One at a time: with others beside it a caption's last bits would depend on how many are missing.
    """
    wanted = {text_key(caption, fingerprint, dtype): caption for caption in captions}
    missing = [(key, caption) for key, caption in wanted.items() if key not in cache]
    if not missing:
        return
    encoders = [encoder.to(device) for encoder in open_encoders()]
    for key, caption in events.track(missing, "captions"):
        with torch.no_grad():
            context, pooled = encode(encoders, [ids.to(device) for ids in tokenize(tokenizers, [caption])])
        tensors = {"context": context[0]} | ({} if pooled is None else {"pooled": pooled[0]})
        cache.save(key, {name: tensor.to(dtype).clone() for name, tensor in tensors.items()})
