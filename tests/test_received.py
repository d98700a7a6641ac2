"""Pictures that come in, in every form of their files: against numpy by hand, and against the host's Load Image."""

import base64
import io
import textwrap

import numpy as np
import pytest
from api_calls import PROMPT, opened, post
from image_files import ALPHA, COLOURS, DEEP, FILES, TURNED, file, over_white, png, text, with_alpha
from PIL import Image
from vega_pack.images import decode

from dev import comfyui
from vega_client import Client

each_file = pytest.mark.parametrize("name", FILES)


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

    def load(id: str) -> np.ndarray:
        (saved,) = comfyui.output_images({id: outputs[id]})
        return np.asarray(Image.open(io.BytesIO(client.download(saved))).convert("RGB")).astype(float)

    for name in names:
        seen, expected = load(f"{name}/ours/picture"), load(f"{name}/core/picture")
        if f"{name}/core/mask" in outputs:
            mask = load(f"{name}/core/mask")
            assert np.abs(load(f"{name}/ours/mask") - mask).max() <= 1, name
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


def draw(server, image: str) -> bytes:
    return opened(post(server, prompt=PROMPT, seed=3, image=image, img_width=96, img_height=64, denoise=0.5)).tobytes()


@pytest.fixture(scope="module")
def by_hand(server):
    """Name of a file -> what the API draws from the same picture, made a plain RGB file of 8 bits by hand."""

    def picture(name: str) -> bytes:
        _, colours, alpha, _ = FILES[name]
        levels = np.rint(over_white(colours, alpha) * 255).astype(np.uint8)
        return draw(server, text(file(Image.fromarray(levels).resize((96, 64)))))

    return picture


def test_the_api_draws_from_what_the_file_shows(server, by_hand):
    for name in ("grey of 16 bits", "RGBA", "palette with alphas", "moving WebP"):
        assert draw(server, text(FILES[name][0])) == by_hand(name), name
    assert draw(server, FORMS["a data URL with parameters"](text(FILES["RGBA"][0]))) == by_hand("RGBA")


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
