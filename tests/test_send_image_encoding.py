"""The pixels of Send Image (Vega) in JPEG, WebP and PNG: quality, alpha, rounding and what no file can hold."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sent_images import SEND, graph, opened, run, with_metadata
from vega_pack.images import encode

from dev import comfyui


def test_quality_counts_for_jpeg_and_not_for_png(client, noise):
    sizes = {(f, q): len(run(client, graph(f, q))[1][0]) for f in ("jpeg", "png") for q in (20, 90)}
    assert sizes["jpeg", 20] < sizes["jpeg", 90] / 2
    assert abs(sizes["png", 20] - sizes["png", 90]) < 64  # the prompt inside differs


def test_alpha_is_kept_or_refused(metadata_client, noise):
    prompt = graph("png")
    prompt["4"] = {"class_type": "SolidMask", "inputs": {"value": 0.4, "width": 64, "height": 48}}
    prompt["5"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["1", 0], "alpha": ["4", 0]}}
    prompt[SEND]["inputs"]["images"] = ["5", 0]
    for format in ("png", "webp"):
        prompt[SEND]["inputs"]["format"] = format
        _, (frame,) = run(metadata_client, prompt)
        drawn = opened(with_metadata(frame)[1])
        assert drawn.shape == (48, 64, 4)
        assert (drawn[..., 3] == 153).all()  # JoinImageWithAlpha inverts the mask
    prompt[SEND]["inputs"]["format"] = "jpeg"
    with pytest.raises(comfyui.PromptError, match="images has an alpha channel, which JPEG can't hold: choose png or webp"):
        run(metadata_client, prompt)


@pytest.mark.parametrize(
    ("shape", "format", "message"),
    [
        ((1, 8, 8, 1), "png", "images has 1 channels; only 3"),
        ((1, 0, 8, 3), "png", "images is empty: 8x0"),
        ((1, 1, 65501, 3), "jpeg", "images is 65501x1, and a jpeg side has at most 65500 pixels: choose png"),
        ((1, 16384, 1, 3), "webp", "images is 1x16384, and a webp side has at most 16383 pixels: choose png"),
    ],
)
def test_what_no_file_can_hold_is_refused(shape, format, message):
    with pytest.raises(ValueError, match=message):
        encode.check_images(torch.zeros(shape), format)


@pytest.mark.parametrize(("width", "format"), [(65500, "jpeg"), (16383, "webp"), (70_000, "png")])
def test_the_longest_pictures_are_written(width, format):
    images = torch.zeros(1, 1, width, 3)
    encode.check_images(images, format)
    file = encode.encode(images[0], format, 95, {})
    assert Image.open(io.BytesIO(file.data)).size == (width, 1) == (file.width, file.height)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    picture = torch.rand(70, 5, 3)
    picture[66, 4, 2] = value
    with pytest.raises(ValueError, match="images holds NaN or infinity"):
        encode.to_uint8(picture)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pixels_are_rounded_as_diffusers_does(dtype):
    from diffusers.image_processor import VaeImageProcessor

    picture = (torch.rand(70, 33, 3) * 1.2 - 0.1).to(dtype)
    picture[0, 0] = torch.tensor([0.5 / 255, 1.5 / 255, 2.5 / 255])
    turned = picture.permute(1, 0, 2)  # not contiguous
    for view in (picture, turned):
        expected = VaeImageProcessor.numpy_to_pil(view.float().clamp(0, 1).numpy())[0]
        assert (encode.to_uint8(view) == np.asarray(expected)).all()
