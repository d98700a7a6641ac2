"""Pictures, captions and tars in the layouts that people train from."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (40, 24)) -> Image.Image:
    """RGB noise, a different one for each seed."""
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(levels)


def png(seed: int = 0, size: tuple[int, int] = (40, 24)) -> bytes:
    return encoded(picture(seed, size))


def raw_png(levels: np.ndarray, bits: int, colour: int) -> bytes:
    """A PNG of these samples [H, W, channels] as the standard has them, which Pillow can't write for 16-bit colours."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = levels.shape[:2]
    rows = levels.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A small PNG that says it has 900 million pixels."""
    content = raw_png(np.zeros((1, 1, 1)), 8, 0)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    changed = b"IHDR" + header
    return content[:12] + changed + struct.pack(">I", zlib.crc32(changed)) + content[33:]


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tar(files: dict[str, bytes | str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
