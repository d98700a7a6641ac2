"""A picture that came in a request: checked before it is decoded, and cut to the size that is drawn."""

import base64
import io
import re

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 2**24
UNWRITTEN = 64  # bytes: so many zeros are in no JPEG's data
TOO_LARGE = f"at most {MOST_PIXELS} are taken: scale it down"
STANDARD = str.maketrans("-_", "+/")  # from the alphabet for addresses (RFC 4648, 5) to the usual one
SRGB = ImageCms.createProfile("sRGB")
DEPTH = 24  # where a PNG file has the bits of a sample
GREY = ("I;16", "I;16B", "I")  # how Pillow has a PNG file's grey of 16 bits; before 11, and on other machines


def picture(encoded: str) -> Image.Image:
    """The first picture of a file in base64, upright: RGB, RGBA if anything is transparent, or one of GREY.

    ValueError says what is wrong with it.
    """
    file = decoded(encoded)
    try:
        opened = Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"image is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.") from None
    except Image.DecompressionBombError:  # Pillow's own limit is above ours
        raise ValueError(f"image has far too many pixels; {TOO_LARGE}.") from None
    except Exception:  # Pillow's readers raise whatever a broken header leads them to
        raise ValueError("image is damaged.") from None
    if opened.width * opened.height > MOST_PIXELS:  # known from its header, before anything is decoded
        raise ValueError(f"image has {opened.width} x {opened.height} pixels; {TOO_LARGE}.")
    if opened.format == "JPEG" and file.endswith(b"\0" * UNWRITTEN) and not file.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("image is damaged: its end was never written.")  # which its reader fills with grey
    deep = opened.format == "PNG" and file[DEPTH] == 16
    if deep and opened.mode == "RGB" and "transparency" in opened.info:  # of 16 bits a sample Pillow keeps 8
        raise ValueError("image has 16 bits a sample and a transparent colour: save it with 8, or with an alpha channel.")
    try:
        upright = ImageOps.exif_transpose(opened)
        return in_srgb(upright, plain(upright, file[DEPTH] if opened.format == "PNG" else 8), opened.info.get("icc_profile"))
    except Exception:
        raise ValueError("image is damaged.") from None


def plain(upright: Image.Image, depth: int) -> Image.Image:
    """RGB, RGBA or one of GREY, whatever the file's mode."""
    if upright.mode in ("1", "L", *GREY) and "transparency" in upright.info:
        return keyed(upright, depth)
    if upright.mode in GREY:
        return upright
    return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def in_srgb(upright: Image.Image, shown: Image.Image, profile: bytes | None) -> Image.Image:
    """What is shown, its colours from those of an ICC profile; one that is not of such a file is passed over.

    So do browsers. Grey of 16 bits keeps them only without a profile.
    """
    if not profile:
        return shown
    if upright.mode in ("1", "L", "LA", *GREY):
        space, colours = "GRAY", in_8_bits(shown)
    elif upright.mode == "CMYK":
        space, colours = "CMYK", upright
    else:
        space, colours = "RGB", shown.convert("RGB")
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if given.profile.xcolor_space.strip() != space:
            return shown
        exact = ImageCms.Flags.NOOPTIMIZE if space == "GRAY" else 0  # else its darkest levels are off by up to 10
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | exact
        found = ImageCms.profileToProfile(colours, given, SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, "RGB", flags=flags)
    except (OSError, ImageCms.PyCMSError):
        return shown
    if shown.mode == "RGBA":
        found.putalpha(shown.getchannel("A"))
    return found


def decoded(encoded: str) -> bytes:
    """The bytes of base64 in either alphabet, in lines or in one, padded or not, with or without a data URL's head."""
    text = encoded.strip()
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if "base64" not in map(str.strip, head.lower().split(";")):
            raise ValueError("image is a data URL that is not base64.")
        text = re.sub("%([0-9A-Fa-f]{2})", lambda code: chr(int(code[1], 16)), text)
    pieces = "".join(line.strip() for line in text.splitlines()).split()
    if len({len(piece) for piece in pieces[:-1]}) > 1:  # no lines: what reads addresses makes spaces of +
        raise ValueError("image is not base64: it has spaces where + may have stood.")
    data = "".join(pieces).translate(STANDARD)
    try:
        return base64.b64decode(data if "=" in data else data + "=" * (-len(data) % 4), validate=True)
    except ValueError:
        raise ValueError("image is not base64.") from None


def keyed(grey: Image.Image, depth: int) -> Image.Image:
    """RGBA of a PNG file's grey of which one level is transparent.

    Pillow scales pixels of 1, 2 and 4 bits to 255, but the level not, or in some versions that of 1 bit alone.
    """
    levels = np.asarray(grey if grey.mode in GREY else grey.convert("L"))
    level, most = grey.info["transparency"], 2**depth - 1
    if depth < 8 and level <= most:
        level *= 255 // most
    alpha = Image.fromarray(np.where(levels == level, 0, 255).astype(np.uint8))
    return Image.merge("LA", (in_8_bits(grey), alpha)).convert("RGBA")


def in_8_bits(grey: Image.Image) -> Image.Image:
    return Image.fromarray(np.rint(np.asarray(grey) / 257).astype(np.uint8)) if grey.mode in GREY else grey.convert("L")


def over_white(picture: Image.Image) -> Image.Image:
    """RGB as a page shows it: what lies under transparency is nobody's to see, and often of any colour."""
    if picture.mode in GREY:
        return in_8_bits(picture).convert("RGB")
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def levels(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """fp32 in 0..1: [H, W, 3] over white, and [H, W] of how transparent it is."""
    if picture.mode in GREY:  # whole, as the host's Load Image has it
        seen = np.repeat(np.asarray(picture, dtype=np.float32)[..., None] / 65535, 3, axis=-1)
    else:
        seen = np.asarray(over_white(picture), dtype=np.float32) / 255
    if picture.mode != "RGBA":
        return seen, np.zeros(seen.shape[:2], np.float32)
    return seen, 1 - np.asarray(picture.getchannel("A"), dtype=np.float32) / 255


def cut(encoded: str, width: int, height: int) -> str:
    """The picture over white, scaled and cut to the size, as a PNG file in base64; ValueError as of picture()."""
    buffer = io.BytesIO()
    fitted = ImageOps.fit(over_white(picture(encoded)), (width, height), Image.Resampling.LANCZOS)
    fitted.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
