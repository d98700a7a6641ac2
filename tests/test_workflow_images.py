"""The shipped workflows with an own picture in Load Image."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from psnr import psnr
from vega_pack.nodes import model_lists
from workflow_files import template

from vega_client.workflow import to_api


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info").json()


def with_own_picture(name: str, file: str, info: dict) -> dict:
    """What the browser sends of a template in whose Load Image a file was chosen."""
    workflow = template(name)
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "ImageCompare"]
    prompt = to_api(workflow, info)
    prompt[only(prompt, "LoadImage")]["inputs"]["image"] = file
    return prompt


def only(prompt: dict, node_class: str) -> str:
    (id,) = [id for id, node in prompt.items() if node["class_type"] == node_class]
    return id


def drawn_by(client, prompt: dict, node_class: str) -> Image.Image:
    """The picture that the only node of a class gives."""
    shown = {"class_type": "PreviewImage", "inputs": {"images": [only(prompt, node_class), 0]}}
    file = client.run({**prompt, "shown": shown})["shown"]["images"][0]
    return Image.open(io.BytesIO(client.download(file)))


def saved_by(client, prompt: dict) -> Image.Image:
    return Image.open(io.BytesIO(client.download(client.run(prompt)[only(prompt, "SaveImage")]["images"][0])))


def landscape(width: int, height: int) -> np.ndarray:
    """A picture of no template's size in which every place can be told from every other, with a little noise."""
    y, x = np.mgrid[:height, :width]
    ridge = height * (0.45 + 0.15 * np.sin(9 * x / width) * x / width)
    sky = np.stack([110 + 90 * x / width, 150 + 60 * y / height, 230 - 40 * x / width], axis=-1)
    land = np.where((y > 0.8 * height)[..., None], (60, 100, 170), (70, 100, 60))
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return np.clip(np.where((y > ridge)[..., None], land, sky) + noise, 0, 255).astype(np.uint8)


def placed(server, name: str, pixels: np.ndarray, hole: tuple | None = None, left: int = 0) -> tuple[str, np.ndarray]:
    """(file in the input folder, which pixels are masked): as the mask editor saves it, see-through where one painted.

    left, of 255, is what one stroke of a soft brush leaves.
    """
    masked = np.zeros(pixels.shape[:2], dtype=bool)
    if hole:
        masked[hole] = True
        pixels = np.dstack([pixels, np.where(masked, left, 255).astype(np.uint8)])
    Image.fromarray(pixels).save(server.base / "input" / name)
    return name, masked


def enlarged(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask and all that is at most so many pixels beside, above or below it."""
    around = np.pad(mask, by)
    height, width = mask.shape
    return np.any([around[y : y + height, x : x + width] for y in range(2 * by + 1) for x in (0, by, 2 * by)], axis=0) | mask


CORNERS = [  # width, height, what is painted: at an edge or a corner, where cutting or stretching shows
    (401, 607, np.s_[420:, :150]),
    (1000, 150, np.s_[:90, 870:]),
    (90, 61, np.s_[:30, :40]),
    pytest.param(600, 400, np.s_[20:180, 440:], marks=pytest.mark.soak),
    pytest.param(128, 128, np.s_[40:100, 3:60], marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("width", "height", "hole"), CORNERS)
def test_inpainting_changes_only_what_is_painted(server, client, info, width, height, hole):
    """Inpainting an own picture changes what is painted, and nothing else."""
    before = landscape(width, height)
    file, masked = placed(server, "own.png", before, hole)
    prompt = with_own_picture("vega_inpaint", file, info)
    picture = saved_by(client, prompt)
    assert (picture.size, picture.mode) == ((width, height), "RGB")
    changed = (np.asarray(picture) != before).any(axis=-1)
    assert not changed[~masked].any()
    feather = prompt[only(prompt, "PrimitiveInt")]["inputs"]
    assert changed[~enlarged(~masked, 2 * feather["value"])].mean() > 0.98
    feather["value"] = 0
    changed = (np.asarray(saved_by(client, prompt)) != before).any(axis=-1)
    assert not changed[~masked].any()
    assert changed[masked].mean() > 0.98, "without a feather all of it, up to the edge"


@pytest.mark.parametrize(("width", "height", "hole"), CORNERS)
def test_the_picture_is_inpainted_whole_and_in_its_own_shape(server, client, info, width, height, hole):
    """What is drawn, before anything is pasted, is the picture around the mask: neither cut nor stretched nor moved."""
    before = landscape(width, height)
    file, masked = placed(server, "own.png", before, hole)
    drawn = drawn_by(client, with_own_picture("vega_inpaint", file, info), "VegaTinyVAEDecode")
    assert {side % 8 for side in drawn.size} == {0}
    assert 0.8 * 320 * 180 <= math.prod(drawn.size) <= 1.2 * 320 * 180
    assert abs(drawn.width / drawn.height * height / width - 1) < 0.1
    reach = math.ceil(12 * max(width / drawn.width, height / drawn.height))  # a latent and a half
    far = ~enlarged(masked, reach)
    after = np.asarray(drawn.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    assert psnr(after[far], before[far].astype(float)) > 22
    print(psnr(after[far], before[far].astype(float)), psnr(after[masked], before[masked].astype(float)))


def test_inpainting_without_paint_changes_nothing(server, client, info):
    before = landscape(300, 200)
    prompt = with_own_picture("vega_inpaint", placed(server, "own.png", before)[0], info)
    assert np.array_equal(np.asarray(saved_by(client, prompt)), before)


def test_a_larger_feather_keeps_more_of_the_masks_edge(server, client, info):
    before = landscape(300, 200)
    file, masked = placed(server, "own.png", before, np.s_[40:160, 100:220])
    prompt, edge = with_own_picture("vega_inpaint", file, info), enlarged(~masked, 12) & masked

    def measure_edge(feather: int) -> float:
        prompt[only(prompt, "PrimitiveInt")]["inputs"]["value"] = feather
        after = np.asarray(saved_by(client, prompt), dtype=float)
        return psnr(after[edge], before[edge].astype(float))

    without, small, large = (measure_edge(feather) for feather in (0, 4, 12))
    assert without + 1 < small < large - 4


@pytest.mark.parametrize("feather", [0, 4])
def test_what_is_half_painted_is_half_new(server, client, info, feather):
    before = landscape(300, 200)
    file, masked = placed(server, "own.png", before, np.s_[40:160, 100:220], left=102)
    prompt = with_own_picture("vega_inpaint", file, info)
    prompt[only(prompt, "PrimitiveInt")]["inputs"]["value"] = feather
    after, drawn = (np.asarray(one, float) for one in (saved_by(client, prompt), drawn_by(client, prompt, "ImageScale")))
    expected = 0.4 * before + 0.6 * drawn
    inner = ~enlarged(~masked, 2 * feather)
    assert np.abs(after - expected)[inner].max() < 2
    assert np.array_equal(after[~masked], before[~masked])


@pytest.mark.parametrize(("width", "height"), [pytest.param(600, 400, marks=pytest.mark.soak), (401, 607), (1000, 150)])
def test_picture_to_picture_takes_the_whole_of_an_own_picture(server, client, info, width, height):
    before = landscape(width, height)
    prompt = with_own_picture("vega_img2img", placed(server, "own.png", before)[0], info)
    prompt[only(prompt, "VegaLCMSampler")]["inputs"]["denoise"] = 0.0  # nothing is drawn anew: what is left is its geometry
    after = saved_by(client, prompt)
    assert 0.8 * 320 * 180 <= math.prod(after.size) <= 1.2 * 320 * 180
    assert abs(after.width / after.height * height / width - 1) < 0.1
    assert psnr(np.asarray(after.resize((width, height), Image.Resampling.BICUBIC), float), before.astype(float)) > 22


def test_controlnet_follows_the_whole_of_an_own_picture(server, client, info):
    """Up to where its models begin: the edges, and an empty latent of their shape."""
    prompt = with_own_picture("vega_controlnet", placed(server, "own.png", landscape(600, 400))[0], info)
    assert prompt[only(prompt, "ImageScaleToTotalPixels")]["inputs"]["megapixels"] == 1.0
    prompt[only(prompt, "ImageScaleToTotalPixels")]["inputs"]["megapixels"] = 0.1  # for a processor
    edges = drawn_by(client, {k: prompt[k] for k in ancestors(prompt, only(prompt, "Canny"))}, "Canny")
    latent = {k: prompt[k] for k in ancestors(prompt, only(prompt, "EmptyLatentImage"))}
    latent["nano"] = {"class_type": "VegaLoader", "inputs": {"model_name": model_lists.EMBEDDED_MODEL, "vae": "tiny"}}
    samples = {"samples": [only(prompt, "EmptyLatentImage"), 0], "vae": ["nano", 2]}
    latent["decode"] = {"class_type": "VegaTinyVAEDecode", "inputs": samples}
    assert drawn_by(client, latent, "VegaTinyVAEDecode").size == edges.size == (400, 264)


def ancestors(prompt: dict, id: str) -> set[str]:
    sources = [value[0] for value in prompt[id]["inputs"].values() if isinstance(value, list)]
    return {id}.union(*(ancestors(prompt, source) for source in sources))
