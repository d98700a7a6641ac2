"""Images as JPEG, WebP and PNG files in memory, with the workflow in core's metadata."""

import io
import logging
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import graph_metadata

SAVE_OPTIONS = {"jpeg": {"subsampling": 0}, "webp": {"method": 0}, "png": {"compress_level": 1}}
# The longest side of each format: libjpeg's own limit, and the 14 bits of WebP.
MAX_SIDE_PIXELS = {"jpeg": 65500, "webp": 16383}
MAX_EXIF_BYTES = 65533  # a JPEG segment has 16 bits for its length
BLOCK_ROWS = 32  # that stay in the processor's cache


@dataclass(frozen=True)
class EncodedImage:
    """A whole file in memory: its format (jpeg, webp or png), its size in pixels and its bytes."""

    format: str
    width: int
    height: int
    data: bytes


def check_images(images, format: str) -> None:
    """ValueError where IMAGE [B, H, W, C] is nothing that the format can hold."""
    height, width, channels = images.shape[1:]
    if channels not in (3, 4):
        raise ValueError(f"images has {channels} channels; only 3 (RGB) and 4 (with alpha) make a picture.")
    if channels == 4 and format == "jpeg":
        raise ValueError("images has an alpha channel, which JPEG can't hold: choose png or webp, or split the alpha off.")
    if 0 in (height, width):
        raise ValueError(f"images is empty: {width}x{height} pixels.")
    if max(height, width) > MAX_SIDE_PIXELS.get(format, math.inf):
        raise ValueError(
            f"images is {width}x{height}, and a {format} side has at most {MAX_SIDE_PIXELS[format]} pixels: "
            "choose png, or scale it."
        )


def to_uint8(image) -> np.ndarray:
    """Float [H, W, C] in 0..1 -> uint8, rounded as diffusers does; ValueError where a value is NaN or infinite."""
    source = image.cpu().float().contiguous().numpy()
    levels = np.empty(source.shape, np.uint8)
    scratch = np.empty((BLOCK_ROWS, *source.shape[1:]), np.float32)
    for top in range(0, len(source), BLOCK_ROWS):
        rows = source[top : top + BLOCK_ROWS]
        block = np.multiply(rows, np.float32(255), out=scratch[: len(rows)])
        low, high = block.min(), block.max()  # NaN where any value is
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("images holds NaN or infinity, so there is no picture: often a VAE overflowed in fp16.")
        if low < 0 or high > 255:
            np.clip(block, 0, 255, out=block)
        levels[top : top + BLOCK_ROWS] = np.rint(block, out=block)
    return levels


def save_kwargs(format: str, prompt: dict | None, extra_pnginfo: dict | None) -> dict:
    """The arguments of Pillow's save with which a file carries its graph as core's own files of the format do.

    JPEG takes core's WebP tags; what does not fit into a JPEG's 64 KiB is left out and logged. Unlike core's, the JSON
    is strict, and the images that came inside the graph are left out.
    """
    prompt, texts = graph_metadata.serialize(prompt, extra_pnginfo)
    if format == "png":
        info = PngInfo()
        if prompt is not None:
            info.add_text("prompt", prompt)
        for key, text in texts.items():
            info.add_text(key, text)
        return {"pnginfo": info}
    tags = {0x010F - i: f"{key}:{text}" for i, (key, text) in enumerate(texts.items())}
    if prompt is not None:
        tags = {0x0110: f"prompt:{prompt}", **tags}
    if not tags:
        return {}
    exif = Image.Exif()
    for tag, text in tags.items():
        exif[tag] = text
        if format == "jpeg" and len(exif.tobytes()) > MAX_EXIF_BYTES:
            del exif[tag]
            logging.warning("Send Image (Vega): the %s is too long for a JPEG and was left out.", text.partition(":")[0])
    return {"exif": exif.tobytes()}


def encode(image, format: str, quality: int, save_kwargs: dict) -> EncodedImage:
    """Float [H, W, 3 or 4] in 0..1 -> a file; quality (1 to 100) counts for JPEG and WebP."""
    picture = Image.fromarray(to_uint8(image))
    buffer = io.BytesIO()
    picture.save(buffer, format=format, quality=quality, **SAVE_OPTIONS[format], **save_kwargs)
    return EncodedImage(format, picture.width, picture.height, buffer.getvalue())
