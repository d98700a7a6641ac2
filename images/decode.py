"""An image that came in base64 in a request: checked before it is decoded, and fitted to the size that is drawn."""

import base64
import io
import re

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 2**24
UNWRITTEN_BYTES = 64  # at the end of a file; no JPEG's data has as many zeros in a row
MAX_PIXELS_MESSAGE = f"at most {MAX_PIXELS} are taken: scale it down"
URLSAFE_TO_STANDARD = str.maketrans("-_", "+/")  # from the alphabet for addresses (RFC 4648, 5) to the usual one
SRGB = ImageCms.createProfile("sRGB")
PNG_BIT_DEPTH_OFFSET = 24  # in bytes (IHDR)
GREY_16_BIT_MODES = ("I;16", "I;16B", "I")  # how Pillow has a PNG file's grey of 16 bits; before 11, and on other machines


def open_base64(encoded: str) -> Image.Image:
    """As open_file, of a file in base64."""
    return open_file(decode_base64(encoded))


def open_file(file: bytes) -> Image.Image:
    """The first image of a file, upright: RGB, RGBA if anything is transparent, or one of GREY_16_BIT_MODES.

    ValueError says what is wrong with it.
    """
    opened = open_header(file)
    if opened.format == "JPEG" and file.endswith(b"\0" * UNWRITTEN_BYTES) and not file.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError("image is damaged: its end was never written.")  # which its reader fills with grey
    is_16_bit = opened.format == "PNG" and file[PNG_BIT_DEPTH_OFFSET] == 16
    if is_16_bit and opened.mode == "RGB" and "transparency" in opened.info:  # of 16 bits a sample Pillow keeps 8
        raise ValueError("image has 16 bits a sample and a transparent colour: save it with 8, or with an alpha channel.")
    try:
        upright = ImageOps.exif_transpose(opened)
        bit_depth = file[PNG_BIT_DEPTH_OFFSET] if opened.format == "PNG" else 8
        return to_srgb(upright, to_known_mode(upright, bit_depth), opened.info.get("icc_profile"))
    except Exception:
        raise ValueError("image is damaged.") from None


def open_header(file: bytes) -> Image.Image:
    """The image before anything of it is decoded; ValueError as open_file, but for damage that only decoding shows."""
    try:
        opened = Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"image is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.") from None
    except Image.DecompressionBombError:  # Pillow's own limit is above ours
        raise ValueError(f"image has far too many pixels; {MAX_PIXELS_MESSAGE}.") from None
    except Exception:  # Pillow's readers raise whatever a broken header leads them to
        raise ValueError("image is damaged.") from None
    if opened.width * opened.height > MAX_PIXELS:
        raise ValueError(f"image has {opened.width} x {opened.height} pixels; {MAX_PIXELS_MESSAGE}.")
    return opened


def to_known_mode(upright: Image.Image, bit_depth: int) -> Image.Image:
    """RGB, RGBA or one of GREY_16_BIT_MODES, whatever the file's mode."""
    if upright.mode in ("1", "L", *GREY_16_BIT_MODES) and "transparency" in upright.info:
        return color_key_to_alpha(upright, bit_depth)
    if upright.mode in GREY_16_BIT_MODES:
        return upright
    return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def to_srgb(upright: Image.Image, shown: Image.Image, profile: bytes | None) -> Image.Image:
    """`shown` with its colours converted from an ICC profile; one of another colour space is ignored, as browsers do.

    upright is the file's image, before to_known_mode. Grey keeps its 16 bits only without a profile.
    """
    if not profile:
        return shown
    if upright.mode in ("1", "L", "LA", *GREY_16_BIT_MODES):
        space, colours = "GRAY", to_8_bit(shown)
    elif upright.mode == "CMYK":
        space, colours = "CMYK", upright
    else:
        space, colours = "RGB", shown.convert("RGB")
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if embedded.profile.xcolor_space.strip() != space:
            return shown
        no_optimize = ImageCms.Flags.NOOPTIMIZE if space == "GRAY" else 0  # else its darkest levels are off by up to 10
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | no_optimize
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        converted = ImageCms.profileToProfile(colours, embedded, SRGB, intent, "RGB", flags=flags)
    except (OSError, ImageCms.PyCMSError):
        return shown
    if shown.mode == "RGBA":
        converted.putalpha(shown.getchannel("A"))
    return converted


def decode_base64(encoded: str) -> bytes:
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
    data = "".join(pieces).translate(URLSAFE_TO_STANDARD)
    try:
        return base64.b64decode(data if "=" in data else data + "=" * (-len(data) % 4), validate=True)
    except ValueError:
        raise ValueError("image is not base64.") from None


def color_key_to_alpha(grey: Image.Image, bit_depth: int) -> Image.Image:
    """RGBA of a PNG file's grey of which one level is transparent.

    Pillow scales pixels of 1, 2 and 4 bits to 255, but the level not, or in some versions that of 1 bit alone.
    """
    pixels = np.asarray(grey if grey.mode in GREY_16_BIT_MODES else grey.convert("L"))
    level, white = grey.info["transparency"], 2**bit_depth - 1
    if bit_depth < 8 and level <= white:
        level *= 255 // white
    alpha = Image.fromarray(np.where(pixels == level, 0, 255).astype(np.uint8))
    return Image.merge("LA", (to_8_bit(grey), alpha)).convert("RGBA")


def to_8_bit(grey: Image.Image) -> Image.Image:
    if grey.mode not in GREY_16_BIT_MODES:
        return grey.convert("L")
    return Image.fromarray(np.rint(np.asarray(grey) / 257).astype(np.uint8))


def composite_over_white(picture: Image.Image) -> Image.Image:
    """RGB as a page shows it: what lies under transparency is nobody's to see, and often of any colour."""
    if picture.mode in GREY_16_BIT_MODES:
        return to_8_bit(picture).convert("RGB")
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def to_float(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """fp32 in 0..1: the image [H, W, 3] over white, and its transparency [H, W], 1 where nothing of it is seen."""
    if picture.mode in GREY_16_BIT_MODES:  # whole, as the host's Load Image has it
        seen = np.repeat(np.asarray(picture, dtype=np.float32)[..., None] / 65535, 3, axis=-1)
    else:
        seen = np.asarray(composite_over_white(picture), dtype=np.float32) / 255
    if picture.mode != "RGBA":
        return seen, np.zeros(seen.shape[:2], np.float32)
    return seen, 1 - np.asarray(picture.getchannel("A"), dtype=np.float32) / 255


def fit_to_size(encoded: str, width: int, height: int) -> str:
    """The image over white, scaled and cropped to the size in pixels, as a PNG in base64; ValueError as open_base64."""
    buffer = io.BytesIO()
    fitted = ImageOps.fit(composite_over_white(open_base64(encoded)), (width, height), Image.Resampling.LANCZOS)
    fitted.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()
