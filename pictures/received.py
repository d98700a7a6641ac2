"""A picture that came in a request: checked before it is decoded, and cut to the size that is drawn."""

import base64
import binascii
import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 2**24


def picture(encoded: str) -> Image.Image:
    """RGB pixels of a file in base64, with or without a data URL's head; ValueError says what is wrong with it."""
    _, _, data = encoded.rpartition("base64,") if encoded.startswith("data:") else ("", "", encoded)
    try:
        file = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("image is not base64.") from None
    try:
        opened = Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"image is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.") from None
    except Exception:  # Pillow's readers raise whatever a broken header leads them to
        raise ValueError("image is damaged.") from None
    if opened.width * opened.height > MOST_PIXELS:  # known from its header, before anything is decoded
        raise ValueError(f"image has {opened.width} x {opened.height} pixels; at most {MOST_PIXELS} are taken.")
    try:
        return ImageOps.exif_transpose(opened).convert("RGB")
    except Exception:
        raise ValueError("image is damaged.") from None


def levels(picture: Image.Image) -> np.ndarray:
    """fp32 [H, W, 3] in 0..1."""
    return np.asarray(picture, dtype=np.float32) / 255


def cut(encoded: str, width: int, height: int) -> str:
    """The picture scaled and cut to the size, as a PNG file in base64; ValueError as of picture()."""
    buffer = io.BytesIO()
    ImageOps.fit(picture(encoded), (width, height), Image.Resampling.LANCZOS).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
