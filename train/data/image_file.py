"""Image files to RGB: upright, on white where they are transparent, whatever colours and bit depth they are stored in."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

ENDINGS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".avif",
    ".tga",
    ".jp2",
    ".ppm",
)
ENDINGS += (".pgm", ".pnm")
SIXTEEN_BITS = 65535


def decode(content: bytes) -> Image.Image:
    """The first frame as RGB; ValueError with the reason, to be read after the file's name, where there is none."""
    if not content:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures and damaged EXIF, which are dealt with here
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return to_rgb(upright(image))
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError("it is no picture that Pillow can read") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise ValueError(f"it is damaged, or of a kind that can't be converted ({error})") from error


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; as it is stored where they can't be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as above: damaged EXIF data are no reason to lose the picture
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits; ValueError for more than 16 bits a channel. Colour profiles are left alone."""
    if image.mode == "F" or image.mode.startswith("I"):
        return from_sixteen_bits(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def from_sixteen_bits(levels: np.ndarray) -> Image.Image:
    """Greys of 0 to 65535 -> 0 to 255, rounded; Pillow's own conversion cuts them off at 255."""
    if levels.dtype.kind == "f" or levels.min() < 0 or levels.max() > SIXTEEN_BITS:
        raise ValueError("more than 16 bits a channel: save it with 8 or 16")
    return Image.fromarray(((levels.astype(np.int64) * 255 + SIXTEEN_BITS // 2) // SIXTEEN_BITS).astype(np.uint8))
