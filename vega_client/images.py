"""Images on their way to the server and back."""

import base64
import io
from pathlib import Path

import httpx
from PIL import Image, ImageOps


def encode_image(image: Image.Image) -> str:
    """A PNG file in base64 that keeps what the server needs to see the image right: transparency, and grey of 16 bits.

    TypeError or ValueError where it is no image that can be sent.
    """
    if not isinstance(image, Image.Image):
        raise TypeError("image must be a PIL.Image.Image, such as PIL.Image.open(path) gives.")
    if 0 in image.size:
        raise ValueError("image has no pixels.")
    if image.format:  # as it came from a file, and not turned by hand since
        image = ImageOps.exif_transpose(image)
    if image.mode not in ("I;16", "I;16B"):
        if image.mode[0] in "FI":
            raise ValueError(
                f"An image of mode {image.mode} doesn't say which number is white: convert it to L, I;16 or RGB."
            )
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def decode_image(file: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file))
    image.load()
    return image


def image_paths(outputs: dict) -> list[str]:
    """Where all images of a prompt's outputs are: in the server's memory (Send Image) and in its folders."""
    paths = []
    for output in outputs.values():
        if sent := output.get("sent"):  # the same may be in a folder, too, for clients that look there
            paths += [entry["url"] for entry in sent]
            continue
        for file in output.get("images", []):
            if Path(file["filename"]).suffix.lower() not in Image.registered_extensions():
                continue  # PreviewVideo's are here, too
            paths.append(f"/view?{httpx.QueryParams({key: file[key] for key in ('filename', 'subfolder', 'type')})}")
    return paths
