"""Writes the templates, workflows/*.json, and the same graphs for programs, workflows/api/*.json, through the real server.

A change made in the browser is lost here: change the graph in template_graphs.py, live_templates.py or
training_templates.py, or its note in templates.md, run this, look at it in the browser, then draw its thumbnail
(`make pictures PARTS=thumbnails`).
"""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from . import comfyui, live_templates, template_graphs, training_templates
from .graph import TITLE_HEIGHT, Graph, Model
from .host import ROOT
from .saved_workflow import WorkflowExporter

NOTES, WORKFLOWS = Path(__file__).parent / "templates.md", ROOT / "workflows"
NOTE_WIDTH, NOTE_GAP = 340, 30
# Names of nodes in a template's graph for the API, instead of their numbers in the browser: the host's own example
# (script_examples/websockets_api_example_ws_images.py) takes the pictures of a node of this name.
API_NODE_IDS = {"vega_send_image_api": {"7": "save_image_websocket_node"}}
WORDS = (
    "vega-nano, the small model in this pack, draws landscapes. Some of the words it knows: day, sunset, dawn, night; "
    "mountains, snowy mountains, hills, desert, forest, city, sea; summer, autumn, winter; sun, full moon, crescent moon, "
    "stars, clouds; a lake, a house, a boat, a tree, a cactus. The help page of Load Vega has all."
)
OWN_PICTURE = "Choose your own picture in **Load Image**, or drop one on it. Any shape works."


class Template(NamedTuple):
    """title: the file's name, which the template browser shows. The graph for programs keeps its first name."""

    title: str
    build: Callable[[Graph], None]


TEMPLATES = {
    "vega_txt2img": Template("01 Text to picture", template_graphs.txt2img),
    "vega_txt2img_1024": Template("02 Text to picture - Vega RT, 1024 pixels", template_graphs.txt2img_1024),
    "vega_img2img": Template("03 Picture to picture", template_graphs.img2img),
    "vega_inpaint": Template("04 Inpaint - paint over a part, draw it anew", template_graphs.inpaint),
    "vega_live_drawing": Template("05 Live prompt - the picture follows the typing", template_graphs.live_drawing),
    "vega_steps_compared": Template("06 1, 2, 4 and 8 steps compared", template_graphs.steps_compared),
    "vega_plain_beside_rt": Template("07 With the LCM-LoRA and without", template_graphs.plain_beside_rt),
    "vega_realvisxl_lcm": Template("08 RealVisXL with LCM-LoRA", template_graphs.realvisxl_lcm),
    "vega_small_sd_tiny_sd": Template("09 small-sd and tiny-sd", template_graphs.small_sd_tiny_sd),
    "vega_style_lora": Template("10 A style LoRA in few steps", template_graphs.style_lora),
    "vega_controlnet": Template("11 ControlNet in few steps", template_graphs.controlnet),
    "vega_send_image_api": Template("12 For programs - Send Image", template_graphs.send_image_api),
    "vega_recipes_compared": Template("13 Four few-step LoRAs compared", template_graphs.recipes_compared),
    "vega_train_lora": Template("14 Train your own LoRA", training_templates.train_lora),
    "vega_live_paint": Template("15 Live paint - the picture follows the brush", live_templates.live_paint),
    "vega_live_webcam": Template("16 Live webcam", live_templates.live_webcam),
    "vega_train_lcm_lora": Template("17 Distil your own LCM-LoRA", training_templates.train_lcm_lora),
}


def models(g: Graph) -> list[Model]:
    """What a graph needs that the pack doesn't bring."""
    given = [value for node in g.nodes.values() for value in node.inputs.values()]
    return list(dict.fromkeys(value for value in given if isinstance(value, Model)))


def files(g: Graph) -> str:
    """Which files the user needs for a graph, and where; a folder, which ComfyUI can't offer, is the note's own matter."""
    needed = models(g)
    folders = any(str(node.inputs.get("model_name", "")).endswith("/") for node in g.nodes.values())
    missing = "Where single files" if folders else "Where files"
    lines = [
        f"{missing} are missing, nodes have a red frame: press **View details**, then **Download all**. Press **R** when "
        "they are in their folders."
    ]
    for directory in dict.fromkeys(model.directory for model in needed):
        listed = [f"**models/{directory}**"]
        for model in needed:
            if model.directory == directory:
                downloaded = model.url.rpartition("/")[2]
                saved_as = f" (saved by browsers as {downloaded}, and found under that name, too)"
                listed.append(f"- [{model.name}]({model.url}), {model.size}{saved_as if downloaded != model.name else ''}")
        lines.append("\n".join(listed))
    return "\n\n".join(lines)


def tiny(name: str) -> str:
    link = f"[{name}]({template_graphs.HUB}/madebyollin/{name})"
    return (
        f"Faster decoding: {link}, its encoder and decoder, in models/vae_approx, and in the green node *vae* of **Load "
        "Vega** set to **tiny**."
    )


def notes() -> dict[str, str]:
    """The notes in templates.md, by template; a line that begins no list, heading or paragraph goes on with the last."""
    sections = re.findall(r"^# (\w+)\n(.*?)(?=^# |\Z)", NOTES.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return {name: re.sub(r"(?<=[^\n])\n(?=[^\n#-])(?!\d\. )", " ", section.strip()) for name, section in sections}


def note_height(text: str) -> int:
    """Room for the text at about 58 letters a line, so that nothing has to be scrolled; most of it with Nodes 2.0."""
    shown = re.sub(r"\]\([^)]*\)|[*`\[#]", "", text)
    lines = sum(math.ceil(len(line) / 58) for line in shown.splitlines() if line)
    items = len(re.findall(r"^(?:-|\d\.) ", text, re.MULTILINE))
    gaps = 12 * text.count("\n\n") + 10 * len(re.findall(r"^\d\. .*\n\n- ", text, re.MULTILINE))  # more between two lists
    return math.ceil((14 * lines + gaps + 8 * items + 40) / 10) * 10


def add_note(g: Graph, text: str) -> None:
    """In the first column, where the eye begins, below one's own picture; below the result where one paints there."""
    kinds = {node.kind for node in g.nodes.values()}
    column, above = 1, [node for node in g.nodes.values() if node.kind == "LoadImage"]
    if "VegaLiveImage" in kinds:
        column, above = 3, [node for node in g.nodes.values() if node.kind == "VegaSendImage"]
    bottoms = [one.y + one.height + TITLE_HEIGHT + NOTE_GAP for one in above]
    filled = text.format(words=WORDS, own_picture=OWN_PICTURE, files=files(g), taesdxl=tiny("taesdxl"), taesd=tiny("taesd"))
    g.note(column, max(bottoms, default=0), NOTE_WIDTH, note_height(filled), filled)


def graph(name: str, info: dict, is_for_programs: bool = False) -> Graph:
    """info: the server's answer to GET /object_info."""
    built = Graph(name, info, is_for_programs)
    TEMPLATES[name].build(built)
    return built


def written(info: dict) -> dict[Path, str]:
    """The text of every file."""
    found, told = {}, notes()
    for name, template in TEMPLATES.items():
        browsers = graph(name, info)
        add_note(browsers, told[name])
        found[WORKFLOWS / f"{template.title}.json"] = json.dumps(WorkflowExporter(browsers).export(), indent=1) + "\n"
        ids = API_NODE_IDS.get(name, {})
        prompt = {ids.get(id, id): node for id, node in graph(name, info, is_for_programs=True).prompt().items()}
        nodes = ",\n".join(f"  {json.dumps(id)}: {json.dumps(node)}" for id, node in prompt.items())
        found[WORKFLOWS / "api" / f"{name}.json"] = f"{{\n{nodes}\n}}\n"
    return found


def main() -> None:
    with comfyui.serve(ROOT / ".comfyui") as server:
        for path, text in written(server.get("/object_info").json()).items():
            path.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
