"""The shipped workflows: against the nodes' definitions, against their API twins, and against the running server."""

import io
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psnr import psnr
from vega_pack.nodes import model_lists

from dev import templates, thumbnails
from dev.workflow_file import SLOT, TITLE, WIDGET
from vega_client import Client
from vega_client.workflow import to_api
from vega_client.workflow.definitions import AUTOGROW, CONTROLS, MATCH, is_widget, specs

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NOTES = ("Note", "MarkdownNote")  # the frontend's own, never executed
SHIPPED = {model_lists.EMBEDDED_MODEL, model_lists.EMBEDDED_LORA}
LOADERS = {"VegaLoader": "model_name", "VegaLCMLora": "lora_name", "VegaLoraLoader": "lora_name"}
LOADERS |= {"ControlNetLoader": "control_net_name"}
FOLDERS = {"VegaLoader": "checkpoints", "VegaLCMLora": "loras", "VegaLoraLoader": "loras", "ControlNetLoader": "controlnet"}
PIECES = 32  # straight ones, for a curve


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def needed(workflow: dict) -> list[tuple[dict, str]]:
    """(node, model) of each model that the pack doesn't bring."""
    found = [(n, n["widgets_values"][0]) for n in workflow["nodes"] if n["type"] in LOADERS]
    return [(node, name) for node, name in found if name not in SHIPPED]


every = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
# Those that run with what the pack brings.
ready = pytest.mark.parametrize("path", [p for p in WORKFLOWS if not needed(read(p))], ids=lambda path: path.stem)


def widgets(definition: dict) -> list[tuple[str, str, dict]]:
    return [spec for spec in specs(definition) if is_widget(*spec[1:])]


def takes(kind: str, options: dict, value) -> bool:
    if kind in ("INT", "FLOAT"):
        whole = isinstance(value, int) or kind == "FLOAT" and isinstance(value, float)
        return whole and options.get("min", value) <= value <= options.get("max", value)
    if kind == "COMBO":
        return value in options["options"]
    if kind == "COLOR":
        return re.fullmatch("#[0-9a-f]{6}", value) is not None
    return isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind])


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top with the title, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def frame(group: dict) -> tuple[float, float, float, float]:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def output_slot(node: dict, slot: int) -> tuple[float, float]:
    return node["pos"][0] + node["size"][0] + 1 - SLOT / 2, node["pos"][1] + (slot + 0.7) * SLOT


def input_slot(node: dict, slot: int, info: dict) -> tuple[float, float]:
    """Where the canvas draws it: in the row of its widget, if it has one (LGraphNode.ts, _arrangeWidgets)."""
    entry, sockets = node["inputs"][slot], [i for i in node["inputs"] if "widget" not in i]
    x, y = node["pos"][0] + SLOT / 2, node["pos"][1]
    if entry in sockets:
        return x, y + (sockets.index(entry) + 0.7) * SLOT
    y += max(len(sockets), len(node["outputs"])) * SLOT + 6
    for name, _, options in widgets(info[node["type"]]):
        if name == entry["name"]:
            return x, y + SLOT / 2
        y += WIDGET * (2 if options.get("control_after_generate") else 1)
    raise AssertionError(f"{node['type']} has no widget {entry['name']}")


def curve(a, b, leaves: bool, enters: bool):
    """The canvas's spline from a to b: level where it leaves or enters a slot, straight where it is led through a point."""
    reach = math.dist(a, b) / 4
    toward = ((b[0] - a[0]) / 4, (b[1] - a[1]) / 4)
    c = (a[0] + reach, a[1]) if leaves else (a[0] + toward[0], a[1] + toward[1])
    d = (b[0] - reach, b[1]) if enters else (b[0] - toward[0], b[1] - toward[1])
    for t in (k / PIECES for k in range(PIECES + 1)):
        weights = ((1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3)
        yield tuple(sum(w * p[axis] for w, p in zip(weights, (a, c, d, b), strict=True)) for axis in (0, 1))


def lines(workflow: dict, info: dict):
    """(source, target, points that it is led through, the line as drawn) of each link."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    points = {point["id"]: point for point in workflow["extra"].get("reroutes", ())}
    ends = {entry["id"]: entry["parentId"] for entry in workflow["extra"].get("linkExtensions", ())}
    for link, source, slot, target, target_slot, _ in workflow["links"]:
        path, point = [input_slot(nodes[target], target_slot, info)], points.get(ends.get(link))
        while point:
            assert link in point["linkIds"]
            path.append(tuple(point["pos"]))
            point = points.get(point.get("parentId"))
        path = [output_slot(nodes[source], slot), *reversed(path)]
        last = len(path) - 2
        pieces = (curve(a, b, k == 0, k == last) for k, (a, b) in enumerate(itertools.pairwise(path)))
        yield (source, slot), target, path, [*itertools.chain.from_iterable(pieces)]


def side(a, b, c) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def cross(a, b, c, d) -> bool:
    """Whether the straight lines a-b and c-d have a point in common, other than by being parallel."""
    return side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0 and any((side(a, b, c), side(a, b, d)))


def crossing(line: list, other: list) -> bool:
    def frames(points):
        ends = [(a, b) for a, b in itertools.pairwise(points) if a != b]
        return [(a, b, (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))) for a, b in ends]

    def near(one, two) -> bool:
        return one[0] <= two[2] and two[0] <= one[2] and one[1] <= two[3] and two[1] <= one[3]

    pairs = itertools.product(frames(line), frames(other))
    return any(near(one, two) and cross(a, b, c, d) for (a, b, one), (c, d, two) in pairs)


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info").json()


def test_the_files_are_what_their_program_writes(info):
    """A workflow that was changed in the browser belongs into dev/templates.py, too."""
    written = templates.written(info)
    assert [path for path, text in written.items() if path.read_text(encoding="utf-8") != text] == []
    assert sorted(path for path in written if path.parent.name == "workflows") == WORKFLOWS
    assert sorted((ROOT / "workflows" / "api").iterdir()) == sorted(path for path in written if path.parent.name == "api")


@every
def test_the_twin_is_the_same_graph(path, info):
    sent = {templates.FOR_PROGRAMS.get(path.stem, {}).get(id, id): node for id, node in to_api(read(path), info).items()}
    assert {id: {"class_type": n["class_type"], "inputs": n["inputs"]} for id, n in sent.items()} == read(
        path.parent / "api" / path.name
    )


@every
def test_every_node_is_known_and_its_values_are_valid(path, info):
    workflow = read(path)
    assert workflow["version"] == 0.4
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values = iter(node["widgets_values"])
        for name, kind, options in widgets(info[node["type"]]):
            value = next(values)
            where = f"{node['type']}.{name} = {value!r}"
            assert takes(kind, options, value) or (node, value) in needed(workflow), where
            if options.get("control_after_generate"):
                assert next(values) in CONTROLS  # the frontend's own widget
        assert next(values, None) is None, f"{node['type']} saves more values than it has widgets"
        assert node["properties"]["Node name for S&R"] == node["type"]


@every
def test_links_fit_the_sockets(path, info):
    workflow = read(path)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    ends = [(link[3], link[4]) for link in workflow["links"]]
    assert len(ends) == len(set(ends))
    for link, source, slot, target, target_slot, kind in workflow["links"]:
        left, right = nodes[source]["outputs"][slot], nodes[target]["inputs"][target_slot]
        assert link in left["links"]
        assert right["link"] == link
        assert info[nodes[source]["type"]]["output"][slot] in (kind, MATCH)
        assert left["type"] == right["type"] == kind
    for node in nodes.values():
        if node["type"] in NOTES:
            continue
        connected = {entry["name"] for entry in node["inputs"] if entry["link"]}
        definition = info[node["type"]]
        needs = {name for name, kind, _ in specs(definition) if name in definition["input"]["required"] and kind != AUTOGROW}
        assert needs - {name for name, *_ in widgets(definition)} <= connected, f"{node['type']} has an open input"


@every
def test_links_run_from_left_to_right_and_cross_nothing(path, info):
    workflow = read(path)
    nodes = {n["id"]: n for n in workflow["nodes"]}
    drawn = list(lines(workflow, info))
    for (source, slot), target, path, line in drawn:
        xs = [x for x, _ in path]
        assert xs == sorted(xs), f"{nodes[source]['type']} to {nodes[target]['type']}"
        boxes = [(n["type"], box(n)) for n in nodes.values() if n["id"] not in (source, target)]
        hidden = {kind for kind, b in boxes for x, y in line if b[0] < x < b[2] and b[1] < y < b[3]}
        assert not hidden, f"{nodes[source]['type']}[{slot}] to {nodes[target]['type']} runs behind {hidden}"
    for (source, target, _, line), (other, other_target, _, other_line) in itertools.combinations(drawn, 2):
        named = [nodes[id]["type"] for id in (source[0], target, other[0], other_target)]
        assert source == other or not crossing(line, other_line), "{} to {} crosses {} to {}".format(*named)


@every
def test_nothing_overlaps_and_every_node_is_in_one_group(path):
    workflow = read(path)
    for a, b in itertools.combinations(workflow["nodes"], 2):
        assert not overlap(box(a), box(b)), f"{a['type']} and {b['type']}"
    for a, b in itertools.combinations(workflow["groups"], 2):
        assert not overlap(frame(a), frame(b)), f"{a['title']} and {b['title']}"
    for node in workflow["nodes"]:
        touched = [group for group in workflow["groups"] if overlap(box(node), frame(group))]
        assert len(touched) == (node["type"] not in NOTES), node["type"]
        for group in touched:
            (left, top, right, bottom), inner = frame(group), box(node)
            assert left < inner[0]
            assert right > inner[2]
            assert bottom > inner[3]
            assert top + group["font_size"] < inner[1], "the group's title is covered"


@every
def test_a_note_says_what_to_do(path):
    (note,) = [node for node in read(path)["nodes"] if node["type"] in NOTES]
    text = note["widgets_values"][0]
    assert text.startswith("## ")
    assert 40 < len(text.split()) < 250
    assert "{" not in text


@every
def test_a_few_step_model_is_accelerated_right_before_its_sampler(path):
    workflow = read(path)
    types = {node["id"]: node["type"] for node in workflow["nodes"]}
    samplers = [node for node in workflow["nodes"] if node["type"] == "VegaLCMSampler"]
    assert samplers
    for node in samplers:
        (source,) = [link[1] for link in workflow["links"] if link[3:5] == [node["id"], 0]]
        assert types[source] == "VegaAccelerate"
    assert {tuple(node["widgets_values"]) for node in workflow["nodes"] if node["type"] == "VegaAccelerate"} == {("auto",)}


@every
def test_models_that_are_not_shipped_say_where_they_are(path):
    """As ComfyUI's frontend wants it (missingModelScan.ts, missingModelDownload.ts). It knows no folders: the note does."""
    workflow = read(path)
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    for node, name in needed(workflow):
        if name.endswith("/"):
            assert f"https://huggingface.co/segmind/{name.strip('/')}/" in note
            continue
        (model,) = node["properties"]["models"]
        assert model["name"] == name
        assert model["directory"] == FOLDERS[node["type"]]
        assert re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/main/[\w.-]+\.safetensors", model["url"])
        assert f"[{name}]({model['url']})" in note
        saved_as = model["url"].rpartition("/")[2]
        assert name == saved_as or f"saved by browsers as {saved_as}" in note
    offered = [node for node in workflow["nodes"] if node["properties"].get("models")]
    assert offered == [node for node, name in needed(workflow) if not name.endswith("/")]


@every
def test_a_thumbnail_lies_beside_it(path):
    """The frontend asks for a .jpg of the same name (workflowTemplatesStore.ts)."""
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert 256 <= max(thumbnail.size) <= thumbnails.MAX_SIDE_PIXELS


@every
def test_the_template_browser_offers_it_with_a_thumbnail(path, server):
    offered = server.get("/workflow_templates").json()
    assert path.stem in offered[ROOT.name]
    served = server.get(f"/api/workflow_templates/{ROOT.name}/{path.name}")
    assert served.json() == read(path)
    assert server.get(f"/api/workflow_templates/{ROOT.name}/{path.stem}.jpg").content[:3] == b"\xff\xd8\xff"


@ready
def test_the_thumbnail_is_what_the_workflow_draws(path, server):
    with Client(server.url) as client:
        drawn = thumbnails.draw(client, read(path.parent / "api" / path.name))
    with Image.open(path.with_suffix(".jpg")) as thumbnail:
        size = min(drawn.size, thumbnail.size)  # small ones are shown enlarged, large ones made smaller
        one = np.asarray(drawn.resize(size, Image.Resampling.LANCZOS), dtype=float)
        other = np.asarray(thumbnail.resize(size, Image.Resampling.BOX), dtype=float)
    assert psnr(one, other) > 28


def test_live_drawing_repeats_no_work(client):
    """A new seed runs the sampler and what follows, a new text the text encoder as well."""
    prompt = read(ROOT / "workflows" / "api" / "vega_live_drawing.json")

    def ran(node_class: str, **changes) -> set[str]:
        for node in prompt.values():
            if node["class_type"] == node_class:
                node["inputs"] |= changes
        events = client.events(client.queue(prompt))
        return {prompt[data["node"]]["class_type"] for kind, data in events if kind == "executing" and data["node"]}

    ran("VegaLCMSampler", seed=101)
    drawing = {"VegaLCMSampler", "VegaTinyVAEDecode", "VegaSendImage"}
    assert ran("VegaLCMSampler", seed=102) == drawing
    assert ran("CLIPTextEncode", text="day, hills, a house") == drawing | {"CLIPTextEncode"}


def note(name: str) -> str:
    (text,) = [n["widgets_values"][0] for n in read(ROOT / "workflows" / f"{name}.json")["nodes"] if n["type"] in NOTES]
    return text


def with_own_picture(name: str, file: str, info: dict) -> dict:
    """The template's prompt with Load Image put in and connected as its note tells."""
    nodes = [n for n in read(ROOT / "workflows" / f"{name}.json")["nodes"] if n["type"] not in NOTES]
    titles = {n.get("title") or info[n["type"]]["display_name"]: n for n in nodes}
    prompt = read(ROOT / "workflows" / "api" / f"{name}.json")
    prompt["own"] = {"class_type": "LoadImage", "inputs": {"image": file}}
    for told in re.finditer(r"(IMAGE|MASK) to the input \*(\w+)\*", note(name)):
        target = titles[re.search(r" of \*\*(.*?)\*\*", note(name)[told.end() :])[1]]
        assert told[2] in {socket["name"] for socket in target["inputs"]}
        prompt[str(target["id"])]["inputs"][told[2]] = ["own", ("IMAGE", "MASK").index(told[1])]
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
    (600, 400, np.s_[20:180, 440:]),
    (401, 607, np.s_[420:, :150]),
    (1000, 150, np.s_[:90, 870:]),
    (128, 128, np.s_[40:100, 3:60]),
    (90, 61, np.s_[:30, :40]),
]


@pytest.mark.parametrize(("width", "height", "hole"), CORNERS)
def test_inpainting_an_own_picture_changes_what_is_painted_and_nothing_else(server, client, info, width, height, hole):
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
    assert 128**2 <= math.prod(drawn.size) <= 192**2
    assert abs(drawn.width / drawn.height * height / width - 1) < 0.1
    reach = math.ceil(12 * max(width / drawn.width, height / drawn.height))  # a latent and a half
    far = ~enlarged(masked, reach)
    after = np.asarray(drawn.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    assert psnr(after[far], before[far].astype(float)) > 22
    assert psnr(after[masked], before[masked].astype(float)) < 20


def test_inpainting_without_paint_changes_nothing(server, client, info):
    before = landscape(300, 200)
    prompt = with_own_picture("vega_inpaint", placed(server, "own.png", before)[0], info)
    assert np.array_equal(np.asarray(saved_by(client, prompt)), before)


def test_a_larger_feather_keeps_more_of_the_masks_edge(server, client, info):
    before = landscape(300, 200)
    file, masked = placed(server, "own.png", before, np.s_[40:160, 100:220])
    prompt, edge = with_own_picture("vega_inpaint", file, info), enlarged(~masked, 12) & masked

    def kept(feather: int) -> float:
        prompt[only(prompt, "PrimitiveInt")]["inputs"]["value"] = feather
        after = np.asarray(saved_by(client, prompt), dtype=float)
        return psnr(after[edge], before[edge].astype(float))

    without, small, large = (kept(feather) for feather in (0, 4, 12))
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


@pytest.mark.parametrize(("width", "height"), [(600, 400), (401, 607), (1000, 150)])
def test_picture_to_picture_takes_the_whole_of_an_own_picture(server, client, info, width, height):
    before = landscape(width, height)
    prompt = with_own_picture("vega_img2img", placed(server, "own.png", before)[0], info)
    prompt[only(prompt, "VegaLCMSampler")]["inputs"]["denoise"] = 0.0  # nothing is drawn anew: what is left is its geometry
    after = saved_by(client, prompt)
    assert 128**2 <= math.prod(after.size) <= 192**2
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
