"""Workflows as ComfyUI's page saves them: made by hand, shipped, and of the host's templates."""

import copy
import functools
import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
SHIPPED = sorted((ROOT / "workflows").glob("*.json"))
# Together they have all that a template of core's nodes has: the letters are in the order of the comments.
SAMPLE = [
    "01_get_started_text_to_image",  # a subgraph
    "02_qwen_Image_edit_subgraphed",
    "05_audio_ace_step_1_t2a_song_subgraphed",  # primitives in a subgraph
    "3d_triposplat_image_to_gaussian_splat",  # subgraphs in a subgraph, bypassed nodes, a bypassed subgraph
    "basic_image_color_adjustment",  # Custom Combo, a curve, colours, growing inputs
    "flux_depth_lora_example",
    "gsl_starter_1_3",  # subgraphs bypassed inside and outside
    "hidream_e1_1",  # primitives, reroutes
    "hunyuan_video_text_to_video",  # muted nodes
    "image_anima_lllite_image_inpainting",  # Painter
    "image_lotus_depth_v1_1",
    "image_qwen_Image_2512_controlnet",  # reroutes in a subgraph
    "utility_sdpose_multi_person",  # a bounding box
    "video_bernini_r_image_editing",  # a list as a value
    "video_kandinsky5_i2v",  # ids used twice
]


@functools.cache
def golden(name: str) -> dict:
    file = GOLDEN / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def templates() -> dict[str, Path]:
    package = importlib.util.find_spec("comfyui_workflow_templates_json")
    return {path.stem: path for path in sorted(Path(package.origin).parent.glob("templates/*.json"))}


def graphs(workflow: dict) -> list[dict]:
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def all_kinds(workflow: dict) -> set[str]:
    return {node["type"] for graph in graphs(workflow) for node in graph["nodes"]}


# Workflows made by hand: a node names the links at its inputs and outputs, which are then listed from those.


def node(node_id, kind, values=None, inputs=None, outputs=(), **more) -> dict:
    entries = [{"name": name, "type": "*", "link": link} for name, link in (inputs or {}).items()]
    slots = [{"name": "", "type": "*", "links": list(links)} for links in outputs]
    saved = {"id": node_id, "type": kind, "pos": [0, 0], "size": [100, 100], "flags": {}, "order": 0, "mode": 0}
    return saved | {"inputs": entries, "outputs": slots, "properties": {}, "widgets_values": values} | more


def links_of(nodes, entering=(), leaving=()) -> list[dict]:
    origins = {link: (-10, k) for k, links in enumerate(entering) for link in links}
    origins |= {link: (n["id"], k) for n in nodes for k, slot in enumerate(n["outputs"]) for link in slot["links"]}
    targets = {link: (-20, k) for k, links in enumerate(leaving) for link in links}
    targets |= {entry["link"]: (n["id"], k) for n in nodes for k, entry in enumerate(n["inputs"])}
    ends = {link: (*origins[link], *targets[link]) for link in origins if link in targets}
    fields = ("origin_id", "origin_slot", "target_id", "target_slot")
    return [{"id": link, **dict(zip(fields, end, strict=True)), "type": "*"} for link, end in ends.items()]


def subgraph(kind, nodes, inputs, outputs) -> dict:
    """inputs: name -> (type, links into the graph); outputs: the links out of it."""
    slots = [{"id": f"{kind}-{name}", "name": name, "type": t, "linkIds": links} for name, (t, links) in inputs.items()]
    ends = [{"id": f"{kind}-out{k}", "name": f"out{k}", "type": "*", "linkIds": links} for k, links in enumerate(outputs)]
    ports = {"inputNode": {"id": -10, "bounding": [0, 0, 1, 1]}, "outputNode": {"id": -20, "bounding": [0, 0, 1, 1]}}
    links = links_of(nodes, [slot["linkIds"] for slot in slots], outputs)
    state = {"lastNodeId": 0, "lastLinkId": 0, "lastGroupId": 0, "lastRerouteId": 0}
    saved = {"id": kind, "version": 1, "revision": 0, "name": kind, "state": state, "config": {}, "extra": {}, "groups": []}
    return saved | ports | {"inputs": slots, "outputs": ends, "widgets": [], "nodes": nodes, "links": links}


def workflow(*nodes, subgraphs=()) -> dict:
    links = [[link["id"], *list(link.values())[1:]] for link in links_of(nodes)]
    saved = {"last_node_id": 100, "last_link_id": 100, "nodes": list(nodes), "links": links, "groups": [], "config": {}}
    return saved | {"extra": {}, "version": 0.4, "definitions": {"subgraphs": list(subgraphs)}}


def version_1(saved: dict) -> dict:
    state = {"lastNodeId": 100, "lastLinkId": 100, "lastGroupId": 0, "lastRerouteId": 0}
    links = links_of(saved["nodes"])
    return {"version": 1, "state": state, "nodes": saved["nodes"], "links": links, "groups": [], "config": {}, "extra": {}}


SAMPLER = [7, "fixed", 4, 7.0, "euler", "simple", 0.25]
STALE = {"name": "gone", "type": "INT", "link": 2, "widget": {"name": "gone"}}  # of a widget that KSampler doesn't have
FILE = {"width": 64, "height": 72, "batch_size": 1}
SINGLE, DOUBLE, SIZED = (f"{k}0000000-0000-4000-8000-000000000000" for k in "abc")


def single() -> dict:
    nodes = [
        node(1, "EmptyLatentImage", [64, 72, 1], {"width": 1}, [[5]]),
        node(2, "KSampler", SAMPLER, {"model": 2, "positive": None, "negative": None, "latent_image": 5, "cfg": 4}, [[3]]),
    ]
    return subgraph(SINGLE, nodes, {"width": ("INT", [1]), "model": ("MODEL", [2]), "cfg": ("FLOAT", [4])}, [[3]])


def double(values=(128, 3.5), **more) -> dict:
    """A subgraph in a subgraph."""
    nodes = [
        node(1, SINGLE, list(values), {"width": 1, "model": 2, "cfg": None}, [[3]], **more),
        node(5, "EmptyLatentImage", [8, 16, 1], {}, [[4]]),
    ]
    return subgraph(DOUBLE, nodes, {"w": ("INT", [1]), "model": ("MODEL", [2])}, [[3], [4]])


def hosts(*saved, inner=None) -> dict:
    """(kind, values, more) of each host, all with the same model; what comes out of them is shown."""
    nodes = [node(1, "CheckpointLoaderSimple", ["a"], {}, [range(10, 10 + len(saved)), [], []])]
    for k, (kind, values, more) in enumerate(saved):
        inputs = {"width" if kind == SINGLE else "w": None, "model": 10 + k, "cfg": None}
        shown = [30 + k] if kind == SINGLE else [30 + k, 50 + k]
        nodes.append(node(10 + k, kind, values, inputs, [[link] for link in shown], **more))
        nodes += [node(link, "PreviewAny", [], {"source": link}) for link in shown]
    return workflow(*nodes, subgraphs=[inner or double(), single()])


def showing(*entries) -> dict:
    return {"properties": {"proxyWidgets": [list(entry) for entry in entries]}}


def primitives() -> dict:
    value = {1: 7.26, 2: 513, 3: 3, 4: "heun", 5: None, 6: "a {b|c}", 7: 30, 8: True, 9: 5, 10: "%KSampler.seed%"}
    to = {1: ("KSampler", SAMPLER, "cfg"), 4: ("KSampler", SAMPLER, "sampler_name"), 7: ("KSampler", SAMPLER, "denoise")}
    to |= {k: ("EmptyLatentImage", [64, 64, 1], "width") for k in (2, 3)} | {5: ("KSampler", SAMPLER, "scheduler")}
    to |= {k: ("CLIPTextEncode", ["old"], "text") for k in (6, 10)} | {8: ("PrimitiveBoolean", [False], "value")}
    to |= {9: ("PreviewAny", [], "source")}
    nodes = [node(20 + k, kind, values, {name: k}) for k, (kind, values, name) in to.items()]
    nodes += [node(k, "PrimitiveNode", None if k == 5 else [v, "fixed"], {}, [[k]]) for k, v in value.items()]
    nodes[-1]["properties"]["Run widget replace on values"] = True
    return workflow(*nodes)


def sized(values, **more) -> dict:
    """A primitive in a subgraph, whose value two hosts may show."""
    inside = [
        node(1, "PrimitiveNode", [320, "fixed"], {}, [[1, 2]], title="Size"),
        node(2, "EmptyLatentImage", [64, 72, 1], {"width": 1, "height": 2}, [[3]]),
    ]
    both = [node(k, SIZED, values, {}, [[k]], **copy.deepcopy(more)) for k in (10, 11)]
    seen = [node(20 + k, "PreviewAny", [], {"source": k}) for k in (10, 11)]
    return workflow(*both, *seen, subgraphs=[subgraph(SIZED, inside, {}, [[3]])])


HANDMADE = {
    "muted and bypassed": workflow(
        node(1, "CheckpointLoaderSimple", ["a"], {}, [[1], [2], [3]]),
        node(2, "LoraLoader", ["b", 1, 1], {"model": 1, "clip": 2}, [[4], [5]], mode=4),
        node(3, "CLIPTextEncode", ["c"], {"clip": 5}, [[6, 7]]),
        node(4, "ConditioningZeroOut", None, {"conditioning": 7}, [[8]], mode=4),
        node(5, "EmptyLatentImage", [64, 64, 1], {}, [[9]], mode=2),
        node(6, "KSampler", SAMPLER, {"model": 4, "positive": 6, "negative": 8, "latent_image": 9}, [[10]]),
        node(7, "VAEDecode", None, {"samples": 10, "vae": 3}, [[11, 12]], mode=4),
        node(8, "PreviewImage", None, {"images": 11}),
        node(9, "PreviewAny", [], {"source": 12}),
        node(10, "PrimitiveInt", [5, "fixed"], {}, [[13]], mode=4),
        node(11, "EmptyLatentImage", [64, 64, 1], {"width": 13}),
        node(12, "Nobody's", [1], {"a": None}, [[14]], mode=4),
        node(13, "Nobody's", [1], {}, [[15]], mode=2),
        node(14, "PreviewAny", [], {"source": 14}),
        node(15, "PreviewAny", [], {"source": 15}),
        node(16, "CreateList", [], {"inputs.input0": 16, "inputs.input5": 17}, [[18]], mode=4),
        node(17, "EmptyLatentImage", [64, 64, 1], {}, [[16, 17]]),
        node(18, "PreviewAny", [], {"source": 18}),
    ),
    "reroutes": workflow(
        node(1, "CheckpointLoaderSimple", ["a"], {}, [[1, 7, 9], [], []]),
        node(2, "Reroute", None, {"": 1}, [[2]]),
        node(3, "Reroute", None, {"": 2}, [[3]]),
        node(4, "Reroute", None, {"": None}, [[4]]),
        node(5, "KSampler", SAMPLER, {"model": 3, "positive": 4}),
        node(6, "PrimitiveNode", [5, "fixed"], {}, [[5]]),
        node(7, "Reroute", None, {"": 5}, [[6]]),
        node(8, "EmptyLatentImage", [64, 64, 1], {"width": 6}),
        node(9, "Reroute", None, {"": 7}, [[8]], mode=4),
        node(10, "KSampler", SAMPLER, {"model": 8}),
        node(11, "Reroute", None, {"": 9}, [[10]], mode=2),
        node(12, "KSampler", SAMPLER, {"model": 10}),
        node(13, "Note", ["not sent"]),
        node(14, "MarkdownNote", ["not sent"]),
    ),
    "primitives": primitives(),
    "values too few, too many, of no use": workflow(
        node(1, "EmptyLatentImage", [256]),
        node(2, "EmptyLatentImage"),
        node(3, "EmptyLatentImage", [1, 2, 3, 4, 5]),
        node(4, "KSampler", [None] * 7),
        node(5, "CLIPTextEncode", [None]),
        node(6, "CheckpointLoaderSimple"),
        node(7, "SeedVR2TemporalMerge", [1, 2]),  # the second is of an input that was a widget once
        node(8, "KSampler", SAMPLER, {"kept": 1}) | {"inputs": [{"name": "kept", "type": "INT", "link": 1}, STALE]},
        node(9, "PrimitiveInt", [5, "fixed"], {}, [[1, 2]]),
    ),
    "kinds of widgets": workflow(
        node(1, "SaveImageAdvanced", ["a", "png", "8-bit", "sRGB"]),
        node(2, "ColorTransfer", ["reinhard_lab", "target_frame", 3, 0.5]),
        node(3, "CustomCombo", ["b", 1, "a", "b", ""]),
        node(4, "CustomCombo", ["z", 0, "a", "", "c"]),
        node(5, "ImageCropV2", [{"x": 1, "y": 2, "width": 3, "height": 4}, 1, 2, 3, 4]),
        node(6, "BuildJsonPromptIdeogram"),
        node(7, "ImageCompare", []),
        node(8, "TextOverlay"),
        node(9, "CurveEditor", []),
        node(10, "SaveGLB", ["a", ""]),
        node(11, "LoadImage", ["a.png", "image"]),
        node(12, "LoadAudio", ["a.mp3", None, None]),
        node(13, "Painter", ["", 512, 640, "#ff0000"]),
        node(14, "TextGenerate", ["a", 5, "on", 0.5, 5, 0.5, 0.5, 1.5, 77, 0.1]),
        node(15, "StringFormat", ["{a}"], {"values.a": 1, "values.b": 2, "values.c": None}),
        node(16, "PrimitiveInt", [5, "fixed"], {}, [[1, 2, 3]]),
        node(17, "GLSLShader", None, {"ints.u_int0": 3, "images.image0": None}),
    ),
    "texts": workflow(
        node(1, "CLIPTextEncode", ["a {red|blue} car // not this\n{x|{y|z}} \\{kept\\} /* nor this */ {lone"]),
        node(
            2, "SaveImage", ["%date:yyyy-M-dd hhmmss yy%/%KSampler.seed%_%Named.cfg%_%nobody.x%_%width%_%Named.scheduler%"]
        ),
        node(3, "KSampler", [7, "fixed", 4, 7.5, "euler", "simple", 0.25], title="Named"),
        node(4, "StringConcatenate", ["http://a", "b{c|d}", "{e|f}"]),
    ),
    "values by number": workflow(node(1, "EmptyLatentImage", {"0": 256, "1": 320, "2": 2})),
    "version 1": version_1(
        workflow(node("1", "EmptyLatentImage", [64, 72, 1], {}, [[1]]), node("2", "PreviewAny", [], {"source": 1}))
    ),
    "subgraphs": hosts(
        (SINGLE, [256, 2.5], {}), (SINGLE, [512], {}), (SINGLE, None, {}), (DOUBLE, [333], {}), (SINGLE, [None, 3], {})
    ),
    "subgraphs muted and bypassed": hosts(
        (SINGLE, [256, 2.5], {"mode": 4}),
        (SINGLE, [512], {"mode": 2}),
        (DOUBLE, [1], {"mode": 4}),
        (DOUBLE, [1], {"mode": 2}),
    ),
    "a muted subgraph in a subgraph": hosts((DOUBLE, [333], {}), inner=double(mode=2)),
    "a bypassed subgraph in a subgraph": hosts((DOUBLE, [333], {}), inner=double(mode=4)),
    "widgets shown by a subgraph": hosts(
        (SINGLE, [256, 9, "heun"], showing(["1", "width"], ["2", "steps"], ["2", "sampler_name"])),
        (SINGLE, [5, 6.5, 7], showing(["-1", "width"], ["2", "cfg"], ["2", "steps"])),
        (SINGLE, [99, 100], showing(["1", "height"], ["9", "nothing"])),
        (DOUBLE, [77, 1.5, 66], showing(["1", "width"], ["1", "cfg"], ["5", "height"])),
        (SINGLE, [None, 3], showing(["2", "steps"], ["2", "seed"])),
        (SINGLE, [1, 2], showing(["2", "$$canvas-image-preview"], ["2", "denoise"])),
    ),
    "widgets shown by a subgraph in a subgraph": hosts(
        (DOUBLE, [77, 1.5, 66, "lms", 15], showing(["1", "2: cfg"], ["1", "steps"], ["5", "height"], ["1", "height", "1"])),
        (DOUBLE, [12], showing(["1", "1: width"])),
        inner=double([11, "ddim", 24], **showing(["2", "steps"], ["2", "sampler_name"], ["1", "height"])),
    ),
    "a primitive in a subgraph": sized(None),
    "a primitive shown by a subgraph": sized([640], **showing(["1", "value"])),
    "a primitive shown by a subgraph without a value": sized([], **showing(["1", "value"])),
    "a primitive shown twice": sized([640, "fixed"], properties={"proxyWidgets": '[["1", "value"], ["1", "control"]]'}),
    "widgets shown by mistake": sized([640], properties={"proxyWidgets": [["1"], 3]}),
    "links into subgraphs": workflow(
        node(20, "PrimitiveNode", [200, "fixed"], {}, [[1]]),
        node(21, SINGLE, [256, 2.5], {"width": 1, "model": None, "cfg": 2}, [[]]),
        node(22, "PrimitiveFloat", [1.5], {}, [[2]]),
        node(23, SINGLE, [256, 2.5], {"width": 3, "model": 4, "cfg": None}, [[]]),
        node(24, "Reroute", None, {"": 5}, [[3]]),
        node(25, "PrimitiveInt", [31, "fixed"], {}, [[5]]),
        node(26, "CheckpointLoaderSimple", ["a"], {}, [[4], [], []], mode=2),
        subgraphs=[single()],
    ),
}


KSAMPLER = {"seed": 5, "steps": 3, "cfg": 2.5, "sampler_name": "euler", "scheduler": "simple", "denoise": 0.5}
NAMED = workflow(node(1, "EmptyLatentImage", FILE, {}, [[1]]), node(2, "KSampler", KSAMPLER, {"latent_image": 1}))
# A pack's node whose code in the browser draws a widget that /object_info doesn't describe.
LORAS = [{"on": True, "lora": "a.safetensors", "strength": 0.5}]
DRAWN = workflow(node(1, "VegaReceiveImage", ["a.png", LORAS]))


def shipped(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def template(name: str) -> dict:
    return shipped(templates()[name])


# What is recorded: how to get each workflow.
RECORDED = {
    "shipped": {path.stem: functools.partial(shipped, path) for path in SHIPPED},
    "templates": {name: functools.partial(template, name) for name in SAMPLE},
    "handmade": {name: functools.partial(copy.deepcopy, saved) for name, saved in HANDMADE.items()},
    "by_packs": {"by name": lambda: NAMED, "drawn": lambda: DRAWN},
}
