"""Pictures that come in, in every form of their files: against numpy by hand, and against the host's Load Image."""

import base64
import io
import struct
import textwrap
import zlib

import numpy as np
import pytest
from api_calls import PROMPT, opened, post
from PIL import Image
from vega_pack.images import decode

from dev import comfyui
from vega_client import Client  # noqa: E402

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


HALF, WHOLE = np.uint8(128), np.full((64, 96), 255, np.uint8)
SMOOTH = np.dstack([np.broadcast_to(np.linspace(a, b, 96), (64, 96)) for a, b in ((0, 255), (200, 40), (90, 90))]).astype(
    "u1"
)
GREYS = np.repeat(GREY[..., None], 3, axis=-1)
# What a file is called: the file, the colours that it holds (in 0..255), its alpha, and how far off a lossy one may be.
FILES = {
    "grey of 16 bits": (file(Image.fromarray(DEEP)), DEEP[..., None] / 257, WHOLE, 0),
    "RGB of 16 bits": (
        png(16, 2, [DEEP[y].repeat(3).astype(">u2").tobytes() for y in range(64)], 96),
        DEEP[..., None] / 257,
        WHOLE,
        1,
    ),
    "grey of 16 bits with alpha": (
        png(16, 4, [np.stack([DEEP[y], DEEP[y][::-1]], -1).astype(">u2").tobytes() for y in range(64)], 96),
        DEEP[..., None] / 257,
        DEEP[:, ::-1] / 257,
        2,
    ),
    "grey": (file(Image.fromarray(GREY)), GREYS, WHOLE, 0),
    "two colours": (file(Image.fromarray(SHARP > 0)), np.repeat(SHARP[..., None], 3, -1), WHOLE, 0),
    "RGBA": (file(with_alpha(COLOURS, ALPHA)), COLOURS, ALPHA, 0.51),
    "grey with alpha": (file(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])), GREYS, ALPHA, 0.51),
    "palette": (file(paletted()), PALETTE[INDICES], WHOLE, 0),
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
    "turned grey of 16 bits": (file(Image.fromarray(DEEP), exif=TURNED), np.rot90(DEEP, -1)[..., None] / 257, WHOLE.T, 0),
    "turned palette": (
        file(paletted(), transparency=1, exif=TURNED),
        np.rot90(PALETTE[INDICES], -1),
        np.rot90(np.where(INDICES == 1, 0, 255), -1),
        0,
    ),
    "RGB with a profile": (file(Image.fromarray(COLOURS), icc_profile=SWAPPED), curved(COLOURS[..., ::-1]), WHOLE, 1),
    "RGBA with a profile": (
        file(with_alpha(COLOURS, ALPHA), icc_profile=SWAPPED),
        curved(COLOURS[..., ::-1]),
        ALPHA,
        1.51,
    ),
    "turned palette with a profile": (
        file(paletted(), icc_profile=SWAPPED, exif=TURNED),
        curved(np.rot90(PALETTE[INDICES][..., ::-1], -1)),
        WHOLE.T,
        1,
    ),
    "grey with a profile": (file(Image.fromarray(GREY), icc_profile=LINEAR_GREY), curved(GREYS), WHOLE, 1),
    "grey of 16 bits with a profile": (
        file(Image.fromarray(DEEP), icc_profile=LINEAR_GREY),
        curved(np.rint(DEEP / 257)[..., None]),
        WHOLE,
        1,
    ),
    "WebP with a profile": (
        file(Image.fromarray(COLOURS), "WEBP", lossless=True, icc_profile=SWAPPED),
        curved(COLOURS[..., ::-1]),
        WHOLE,
        1,
    ),
    "JPEG with a profile": (
        file(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0, icc_profile=SWAPPED),
        curved(SMOOTH[..., ::-1]),
        WHOLE,
        40,
    ),
    "RGB with the profile of grey": (file(Image.fromarray(COLOURS), icc_profile=LINEAR_GREY), COLOURS, WHOLE, 0),
    "RGB with a broken profile": (file(Image.fromarray(COLOURS), icc_profile=SWAPPED[:200]), COLOURS, WHOLE, 0),
    "JPEG": (file(Image.fromarray(SMOOTH), "JPEG", quality=98, subsampling=0), SMOOTH, WHOLE, 4),
    "CMYK, which Adobe inverts": (file(cmyk(SMOOTH), "JPEG", quality=98), 255 - SMOOTH.astype(int), WHOLE, 4),
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
each_file = pytest.mark.parametrize("name", FILES)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def over_white(colours, alpha) -> np.ndarray:
    """[H, W, 3] in 0..1: Porter and Duff's "over" (1984), by hand."""
    shown = np.asarray(alpha)[..., None] / 255
    return np.broadcast_to(np.asarray(colours) / 255 * shown + (1 - shown), (*shown.shape[:2], 3))


@each_file
def test_what_is_seen_is_what_the_file_shows(name):
    data, colours, alpha, off = FILES[name]
    seen, transparent = decode.to_float(decode.open_base64(text(data)))
    assert seen.dtype == transparent.dtype == np.float32
    np.testing.assert_allclose(seen, over_white(colours, alpha), atol=off / 255 + 1e-6, rtol=0)
    np.testing.assert_allclose(transparent, 1 - np.asarray(alpha) / 255, atol=(off > 0.9) / 255 + 1e-6, rtol=0)


def test_the_hosts_load_image_has_the_same_picture_and_mask(server, client):
    """On the server, in one prompt; what it saves is cut to 8 bits. FFmpeg, which it reads with, has its own JPEG."""
    graph, names = {}, [name for name in FILES if " bits with a transp" not in name and "bit with" not in name]
    names = [name for name in names if not name.startswith(("JPEG", "CMYK")) and "profile" not in name]

    def node(id: str, kind: str, **inputs) -> list:
        graph[id] = {"class_type": kind, "inputs": inputs}
        return [id, 0]

    for name in names:
        path = server.base / "input" / f"received {name}.{'webp' if 'WebP' in name else 'png'}"
        path.write_bytes(FILES[name][0])
        loads = {"ours": ("VegaReceiveImage", text(FILES[name][0])), "core": ("LoadImage", path.name)}
        for whose, (kind, image) in loads.items():
            picture = node(f"{name}/{whose}", kind, image=image)
            first = node(f"{name}/{whose}/one", "ImageFromBatch", image=picture, batch_index=0, length=1)
            node(f"{name}/{whose}/picture", "PreviewImage", images=first)
            if FILES[name][2].min() < 255:
                mask = node(f"{name}/{whose}/as picture", "MaskToImage", mask=[picture[0], 1])
                first = node(f"{name}/{whose}/first", "ImageFromBatch", image=mask, batch_index=0, length=1)
                node(f"{name}/{whose}/mask", "PreviewImage", images=first)
    outputs = client.run(graph)

    def drawn(id: str) -> np.ndarray:
        (saved,) = comfyui.images({id: outputs[id]})
        return np.asarray(Image.open(io.BytesIO(client.download(saved))).convert("RGB")).astype(float)

    for name in names:
        seen, expected = drawn(f"{name}/ours/picture"), drawn(f"{name}/core/picture")
        if f"{name}/core/mask" in outputs:
            mask = drawn(f"{name}/core/mask")
            assert np.abs(drawn(f"{name}/ours/mask") - mask).max() <= 1, name
            expected = expected * (1 - mask / 255) + mask
        assert np.abs(seen - expected).max() <= 3, name


def in_lines(data: str) -> str:
    return "\r\n".join(textwrap.wrap(data, 76)) + "\r\n"


FORMS = {
    "lines": in_lines,
    "indented lines": lambda data: textwrap.indent(in_lines(data), "\t  "),
    "lines that spaces divide": lambda data: " ".join(textwrap.wrap(data, 64)),
    "no padding": lambda data: data.rstrip("="),
    "the alphabet of addresses": lambda data: data.translate(str.maketrans("+/", "-_")).rstrip("="),
    "a data URL": lambda data: f"data:image/png;base64,{data}",
    "a data URL with parameters": lambda data: f" DATA:image/png;name=a.png;charset=utf-8;BASE64,\n{in_lines(data)}",
    "a data URL with escapes": lambda data: "data:;base64," + data.replace("+", "%2B").replace("=", "%3d") + "%0A",
}


@pytest.mark.parametrize("form", FORMS)
def test_base64_in_all_its_forms(form):
    data = file(Image.fromarray(COLOURS))
    data += bytes(2 - len(data) % 3)  # so that it has padding; what follows a PNG file's end is left
    assert "+" in text(data)
    assert "/" in text(data)
    assert text(data).endswith("=")
    assert (np.asarray(decode.open_base64(FORMS[form](text(data)))) == COLOURS).all()


REFUSED = {
    "nothing": ("", "no PNG, JPEG or WEBP"),
    "words": ("a picture of a cat", "not base64"),
    "words in base64": ("aGVsbG8", "no PNG, JPEG or WEBP"),
    "a data URL of words": ("data:image/png,abc", "not base64"),
    "a data URL's head": ("data:image/png;base64", "no PNG"),
    "other letters": (text(file(Image.fromarray(COLOURS))) + "é", "not base64"),
    "spaces for +": (text(file(Image.fromarray(COLOURS))).replace("+", " "), "spaces where \\+ may have stood"),
    "a cut PNG": (text(file(Image.fromarray(COLOURS))[:2000]), "damaged"),
    "a cut JPEG": (text(file(Image.fromarray(COLOURS), "JPEG")[:-300]), "damaged"),
    "a cut WebP": (text(file(Image.fromarray(COLOURS), "WEBP")[:-300]), "damaged"),
    "another format": (text(file(Image.fromarray(COLOURS), "GIF")), "no PNG, JPEG or WEBP"),
    "too many pixels": (text(png(8, 0, [b""] * 5000, 5000)), "5000 x 5000 pixels; at most 16777216"),
    "what Pillow calls a bomb": (text(png(8, 0, [b""] * 50_000, 50_000)), "far too many pixels; at most 16777216"),
    "what Pillow can't tell apart": (text(png(16, 2, [bytes(6)], 1, bytes(6))), "16 bits a sample and a transparent colour"),
}


def test_a_jpeg_whose_end_was_never_written_is_refused():
    """Its reader fills what is missing with grey, and says nothing."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    file = buffer.getvalue()
    half = file[: len(file) // 2] + bytes(len(file) - len(file) // 2)
    with pytest.raises(ValueError, match="its end was never written"):
        decode.open_base64(base64.b64encode(half).decode())
    decode.open_base64(base64.b64encode(file + bytes(100)).decode())  # padded, and whole


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_a_sentence(name):
    image, said = REFUSED[name]
    with pytest.raises(ValueError, match=said) as error:
        decode.open_base64(image)
    assert str(error.value).startswith("image ")
    assert "\n" not in str(error.value)


def drawn(server, image: str) -> bytes:
    return opened(post(server, prompt=PROMPT, seed=3, image=image, img_width=96, img_height=64, denoise=0.5)).tobytes()


@pytest.fixture(scope="module")
def by_hand(server):
    """Name of a file -> what the API draws from the same picture, made a plain RGB file of 8 bits by hand."""

    def picture(name: str) -> bytes:
        _, colours, alpha, _ = FILES[name]
        levels = np.rint(over_white(colours, alpha) * 255).astype(np.uint8)
        return drawn(server, text(file(Image.fromarray(levels).resize((96, 64)))))

    return picture


def test_the_api_draws_from_what_the_file_shows(server, by_hand):
    for name in ("grey of 16 bits", "RGBA", "palette with alphas", "moving WebP"):
        assert drawn(server, text(FILES[name][0])) == by_hand(name), name
    assert drawn(server, FORMS["a data URL with parameters"](text(FILES["RGBA"][0]))) == by_hand("RGBA")


def test_the_client_sends_what_an_image_shows(server, by_hand):
    deep, alpha = Image.fromarray(DEEP), with_alpha(COLOURS, ALPHA)
    turned = Image.open(io.BytesIO(file(alpha.rotate(90, expand=True), exif=TURNED)))  # upright as alpha is
    images = [(deep, "grey of 16 bits"), (alpha, "RGBA"), (turned, "RGBA")]
    images.append((Image.open(io.BytesIO(FILES["palette with alphas"][0])), "palette with alphas"))
    with Client(server.url) as client:
        for image, name in images:
            answer = client.generate(PROMPT, seed=3, image=image, width=96, height=64, denoise=0.5)
            assert answer.tobytes() == by_hand(name), (name, image.mode)
        for mode in ("I", "F"):
            with pytest.raises(ValueError, match=f"mode {mode} doesn't say which number is white"):
                client.generate(PROMPT, image=Image.new(mode, (96, 64)))
