"""Image files of every kind come out as the RGB that a viewer shows; what can't be read is refused with a reason."""

import numpy as np
import pytest
import training_files as files
from PIL import Image

from train.data import image_file

TURNED = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE"}
TURNED |= {8: "ROTATE_270"}


def levels(content: bytes) -> np.ndarray:
    image = image_file.decode(content)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_give_one_picture(kind, orientation):
    upright = Image.new("RGB", (32, 16), "navy")
    upright.paste("orange", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(Image.Transpose[TURNED[orientation]]) if orientation > 1 else upright
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    found = levels(files.encoded(stored, kind, exif=exif, **options))
    assert np.abs(found - np.asarray(upright)).max() <= (4 if kind == "JPEG" else 0)


def test_damaged_exif_leaves_the_picture():
    content = files.encoded(files.picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01garbage")
    assert levels(content).shape == (24, 40, 3)


def transparent(mode: str) -> tuple[Image.Image, int]:
    """A picture whose left half shows its white background, its right half 100; what is hidden is black."""
    image = Image.new("LA", (4, 2), (0, 0))
    image.paste((100, 255), (2, 0, 4, 2))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_transparent_is_white(mode):
    found = levels(files.encoded(transparent(mode)))
    assert (found[:, :2] == 255).all()
    assert (found[:, 2:] == 100).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_is_white(kind):
    image = Image.new("P", (4, 2), 0)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.paste(1, (2, 0, 4, 2))
    found = levels(files.encoded(image, kind, transparency=0))
    assert (found[:, :2] == 255).all()
    assert (found[:, 2:] == (10, 200, 30)).all()


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bits_keep_their_brightness(colour, channels):
    deep = np.linspace(0, 65535, 8 * channels).round().reshape(2, 4, channels)
    assert np.abs(levels(files.raw_png(deep, 16, colour)) - deep / 257).max() <= 1


def test_sixteen_bit_tiff():
    deep = np.array([[0, 300], [40000, 65535]], np.uint16)
    found = levels(files.encoded(Image.fromarray(deep), "TIFF"))
    assert np.abs(found[..., 0] - deep / 257).max() <= 0.5


def test_cmyk_jpeg():
    found = levels(files.encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(found - (255, 0, 0)).max() <= 3


def test_the_first_frame_of_an_animation():
    red, blue = (Image.new("RGB", (4, 4), name) for name in ("red", "blue"))
    assert (levels(files.encoded(red, "GIF", save_all=True, append_images=[blue])) == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"a caption", "no picture that Pillow can read"),
        (files.png()[:-200], "damaged"),
        (files.encoded(files.picture(), "JPEG")[:300], "damaged"),
        (files.bomb(), "pixels: make it smaller"),
        (files.encoded(Image.new("F", (2, 2)), "TIFF"), "more than 16 bits"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 100, "damaged|no picture"),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "bomb", "floats", "no chunks"],
)
def test_what_can_not_be_read_is_refused(content, reason):
    with pytest.raises(ValueError, match=reason):
        image_file.decode(content)
