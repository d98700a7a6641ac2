"""Files of one picture in every form, with what each of them shows; by hand where Pillow doesn't write it."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

HIDDEN = (255, 0, 0)  # lies under the transparency
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be seen turned to the right
random = np.random.default_rng(0)
DEEP = np.linspace(0, 65535, 64 * 96).astype(np.uint16).reshape(64, 96)
COLOURS = random.integers(0, 256, (64, 96, 3), np.uint8)
ALPHA = random.integers(0, 256, (64, 96), np.uint8)
SHARP = np.where(ALPHA > 99, 255, 0).astype(np.uint8)
GREY = COLOURS[..., 0]
INDICES = GREY % 4
PALETTE = np.array([(10, 20, 30), HIDDEN, (90, 160, 250), (5, 200, 90)], np.uint8)


def file(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png(depth: int, colour: int, rows: list[bytes], width: int, key: bytes = b"") -> bytes:
    """A PNG file by hand (its specification, 11.2 and 11.3.1): what Pillow doesn't write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + (chunk(b"tRNS", key) if key else b"") + data + chunk(b"IEND", b"")


def paletted() -> Image.Image:
    picture = Image.fromarray(INDICES, "P")
    picture.putpalette(PALETTE.tobytes())
    return picture


def with_alpha(colours: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colours, alpha]))


def cmyk(levels: np.ndarray) -> Image.Image:
    return Image.merge("CMYK", [Image.fromarray(levels[..., k]) for k in (0, 1, 2)] + [Image.new("L", (96, 64), 0)])


def profile(space: str, *tags: tuple[str, bytes]) -> bytes:
    """An ICC profile by hand (ICC.1:2001, 6): of a display, with these tags and a white point."""
    white = struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in D50))
    tags = [(name.encode(), data + bytes(-len(data) % 4)) for name, data in [("wtpt", white), *tags]]
    table, data, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags:
        table += struct.pack(">4sII", name, start + len(data), len(value))
        data += value
    head = struct.pack(">8xI4s4s4s", 0x02100000, b"mntr", space.encode().ljust(4), b"XYZ ")
    head = head.ljust(36, b"\0") + b"acsp" + bytes(28) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    head = head.ljust(128, b"\0")
    return struct.pack(">I", start + len(data)) + head[4:] + table + data


D50 = (0.9642, 1.0, 0.8249)
# sRGB's own colours, adapted to D50 (IEC 61966-2-1), and a straight line instead of its curve.
RED, GREEN, BLUE = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410)
LINE = struct.pack(">4s4xI", b"curv", 0)


def colour(xyz: tuple) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in xyz))


LINES = [(f"{name}TRC", LINE) for name in "rgb"]
SWAPPED = profile("RGB", *((f"{n}XYZ", colour(v)) for n, v in zip("rgb", (BLUE, GREEN, RED), strict=True)), *LINES)
LINEAR_GREY = profile("GRAY", ("kTRC", LINE))


def curved(levels: np.ndarray) -> np.ndarray:
    """Of light in 0..255, sRGB's own levels (IEC 61966-2-1)."""
    light = levels / 255
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


HALF, OPAQUE = np.uint8(128), np.full((64, 96), 255, np.uint8)
SMOOTH = np.dstack([np.broadcast_to(np.linspace(a, b, 96), (64, 96)) for a, b in ((0, 255), (200, 40), (90, 90))]).astype(
    "u1"
)
GREYS = np.repeat(GREY[..., None], 3, axis=-1)
# What a file is called: the file, the colours that it holds (in 0..255), its alpha, and how far off a lossy one may be.
FILES = {
    "grey of 16 bits": (file(Image.fromarray(DEEP)), DEEP[..., None] / 257, OPAQUE, 0),
    "RGB of 16 bits": (
        png(16, 2, [DEEP[y].repeat(3).astype(">u2").tobytes() for y in range(64)], 96),
        DEEP[..., None] / 257,
        OPAQUE,
        1,
    ),
    "grey of 16 bits with alpha": (
        png(16, 4, [np.stack([DEEP[y], DEEP[y][::-1]], -1).astype(">u2").tobytes() for y in range(64)], 96),
        DEEP[..., None] / 257,
        DEEP[:, ::-1] / 257,
        2,
    ),
    "grey": (file(Image.fromarray(GREY)), GREYS, OPAQUE, 0),
    "two colours": (file(Image.fromarray(SHARP > 0)), np.repeat(SHARP[..., None], 3, -1), OPAQUE, 0),
    "RGBA": (file(with_alpha(COLOURS, ALPHA)), COLOURS, ALPHA, 0.51),
    "grey with alpha": (file(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])), GREYS, ALPHA, 0.51),
    "palette": (file(paletted()), PALETTE[INDICES], OPAQUE, 0),
    "palette with a transparent colour": (
        file(paletted(), transparency=1),
        PALETTE[INDICES],
        np.where(INDICES == 1, 0, 255),
        0,
    ),
    "palette with alphas": (
        file(paletted(), transparency=bytes([0, 80, 255, 160])),
        PALETTE[INDICES],
        np.array([0, 80, 255, 160])[INDICES],
        0.51,
    ),
    "RGB with a transparent colour": (
        file(Image.fromarray(PALETTE[INDICES]), transparency=HIDDEN),
        PALETTE[INDICES],
        np.where(INDICES == 1, 0, 255),
        0,
    ),
    "grey with a transparent level": (file(Image.fromarray(GREY), transparency=9), GREYS, np.where(GREY == 9, 0, 255), 0),
    "grey of 4 bits with a transparent level": (
        png(4, 0, [bytes([0x05, 0xAF])], 4, b"\0\5"),
        np.array([[[0], [85], [170], [255]]]),
        np.array([[255, 0, 255, 255]]),
        0,
    ),
    "grey of 2 bits with a transparent level": (
        png(2, 0, [b"\x1b"], 4, b"\0\2"),
        np.array([[[0], [85], [170], [255]]]),
        np.array([[255, 255, 0, 255]]),
        0,
    ),
    "grey of 1 bit with a transparent level": (
        png(1, 0, [b"\x50"], 4, b"\0\0"),
        np.array([[[0], [255], [0], [255]]]),
        np.array([[0, 255, 0, 255]]),
        0,
    ),
    "grey of 16 bits with a transparent level": (
        png(16, 0, [b"\x12\x34\x12\x35"], 2, b"\x12\x34"),
        np.array([[[0x1234 / 257], [0x1235 / 257]]]),
        np.array([[0, 255]]),
        0.51,
    ),
    "turned RGBA": (
        file(with_alpha(COLOURS, ALPHA), exif=TURNED),
        np.rot90(COLOURS, -1),
        np.rot90(ALPHA, -1),
        0.51,
    ),
    "turned grey of 16 bits": (file(Image.fromarray(DEEP), exif=TURNED), np.rot90(DEEP, -1)[..., None] / 257, OPAQUE.T, 0),
    "turned palette": (
        file(paletted(), transparency=1, exif=TURNED),
        np.rot90(PALETTE[INDICES], -1),
        np.rot90(np.where(INDICES == 1, 0, 255), -1),
        0,
    ),
    "RGB with a profile": (file(Image.fromarray(COLOURS), icc_profile=SWAPPED), curved(COLOURS[..., ::-1]), OPAQUE, 1),
    "RGBA with a profile": (
        file(with_alpha(COLOURS, ALPHA), icc_profile=SWAPPED),
        curved(COLOURS[..., ::-1]),
        ALPHA,
        1.51,
    ),
    "turned palette with a profile": (
        file(paletted(), icc_profile=SWAPPED, exif=TURNED),
        curved(np.rot90(PALETTE[INDICES][..., ::-1], -1)),
        OPAQUE.T,
        1,
    ),
    "grey with a profile": (file(Image.fromarray(GREY), icc_profile=LINEAR_GREY), curved(GREYS), OPAQUE, 1),
    "grey of 16 bits with a profile": (
        file(Image.fromarray(DEEP), icc_profile=LINEAR_GREY),
        curved(np.rint(DEEP / 257)[..., None]),
        OPAQUE,
        1,
    ),
    "WebP with a profile": (
        file(Image.fromarray(COLOURS), "WEBP", lossless=True, icc_profile=SWAPPED),
        curved(COLOURS[..., ::-1]),
        OPAQUE,
        1,
    ),
    "JPEG with a profile": (
        file(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0, icc_profile=SWAPPED),
        curved(SMOOTH[..., ::-1]),
        OPAQUE,
        40,
    ),
    "RGB with the profile of grey": (file(Image.fromarray(COLOURS), icc_profile=LINEAR_GREY), COLOURS, OPAQUE, 0),
    "RGB with a broken profile": (file(Image.fromarray(COLOURS), icc_profile=SWAPPED[:200]), COLOURS, OPAQUE, 0),
    "JPEG": (file(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0), SMOOTH, OPAQUE, 4),
    "CMYK, which Adobe inverts": (file(cmyk(SMOOTH), "JPEG", quality=98), 255 - SMOOTH.astype(int), OPAQUE, 4),
    "WebP": (file(with_alpha(COLOURS, ALPHA), "WEBP", lossless=True, exact=True), COLOURS, ALPHA, 0.51),
    "moving WebP": (
        file(
            with_alpha(COLOURS, SHARP),
            "WEBP",
            lossless=True,
            exact=True,
            save_all=True,
            append_images=[Image.new("RGBA", (96, 64), "blue")],
        ),
        COLOURS,
        SHARP,
        0.51,
    ),
    "moving PNG": (
        file(with_alpha(COLOURS, ALPHA), save_all=True, append_images=[Image.new("RGBA", (96, 64), "blue")]),
        COLOURS,
        ALPHA,
        0.51,
    ),
}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def over_white(colours, alpha) -> np.ndarray:
    """[H, W, 3] in 0..1: Porter and Duff's "over" (1984), by hand."""
    shown = np.asarray(alpha)[..., None] / 255
    return np.broadcast_to(np.asarray(colours) / 255 * shown + (1 - shown), (*shown.shape[:2], 3))
