"""Draws the pictures of the help pages, web/docs/*.webp, from ComfyUI's own page in Chromium and with vega-nano."""

import contextlib
import copy
import io
import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vega_client import Client

from . import browser, comfyui, thumbnails
from .host import ROOT
from .templates import TEMPLATES

DOCS, WORKFLOWS = ROOT / "web" / "docs", ROOT / "workflows"
# Node: the template that shows it, and which of its nodes; None is all.
NODES_SHOWN = {
    "VegaLoader": ("vega_txt2img", None),
    "VegaLoraLoader": ("vega_style_lora", ("VegaLoader", "VegaLoraLoader", "VegaLCMLora")),
    "VegaAccelerate": ("vega_txt2img", ("VegaLCMLora", "VegaAccelerate", "VegaLCMSampler")),
    "VegaTinyVAEDecode": ("vega_txt2img", ("VegaLCMSampler", "VegaTinyVAEDecode")),
    "VegaSendImage": ("vega_send_image_api", ("VegaSendImage",)),
    "VegaReceiveImage": ("vega_img2img", ("ImageScaleToTotalPixels", "VAEEncode")),
}
# Files that a shown template names and that need only be there: ComfyUI outlines a node whose file is missing.
MODELS = ("checkpoints/sd_xl_base_1.0.safetensors", "loras/pixel-art-xl.safetensors", "loras/lcm-lora-sdxl.safetensors")
PAGE_SIZE = {"width": 1600, "height": 900}
AROUND, ABOVE = 30, 90  # of the nodes, in the canvas's units
SIDE_PIXELS, GAP_PIXELS, LETTER_PIXELS = 384, 12, 26
SETTINGS = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "Comfy.NodeBadge.NodeSourceBadgeMode": "None"}
# Looks into the subgraph.
OPEN = "window.app.canvas.setGraph(window.app.graph.nodes.find(n => n.subgraph).subgraph)"
FOCUS = "window.app.extensionManager.toggleFocusMode()"
# Moves the canvas so that the nodes fill its upper left, and tells how much of it they take.
FRAME = """([kinds, size, around, above]) => {
    const canvas = window.app.canvas
    const nodes = canvas.graph.nodes.filter(n => n.type !== 'MarkdownNote' && (!kinds || kinds.includes(n.type)))
    const edge = (pick, of) => pick(...nodes.map(of))
    const left = edge(Math.min, n => n.pos[0]) - around, top = edge(Math.min, n => n.pos[1]) - above
    const width = edge(Math.max, n => n.pos[0] + n.size[0]) + around - left
    const height = edge(Math.max, n => n.pos[1] + n.size[1]) + around - top
    canvas.ds.scale = Math.min(size.width / width, size.height / height, 1.4)
    canvas.ds.offset = [-left, -top]
    canvas.setDirty(true, true)
    return [width * canvas.ds.scale, height * canvas.ds.scale]
}"""


def screenshots(page: browser.Page) -> None:
    page.set_viewport_size(PAGE_SIZE)
    for name, (template, kinds) in NODES_SHOWN.items():
        saved = (WORKFLOWS / f"{TEMPLATES[template].title}.json").read_text(encoding="utf-8")
        browser.load(page, json.loads(saved))
        if "(embedded)" in saved:  # others lack their models here
            browser.run(page)
        if kinds:
            page.evaluate(OPEN)
        page.evaluate(FOCUS)  # no menus over the canvas
        width, height = page.evaluate(FRAME, [kinds, PAGE_SIZE, AROUND, ABOVE])
        page.wait_for_timeout(2000)
        clip = {"x": 0, "y": 0, "width": width, "height": height}
        save(Image.open(io.BytesIO(page.screenshot(clip=clip))), name)
        page.evaluate(FOCUS)


def comparisons(client: Client) -> None:
    save(thumbnails.draw(client, prompt("vega_steps_compared")), "VegaLCMSampler")
    fast = prompt("vega_txt2img")
    slow = copy.deepcopy(fast)
    sampler = next(node for node in slow.values() if node["class_type"] == "VegaLCMSampler")
    loader = next(id for id, node in slow.items() if node["class_type"] == "VegaLoader")
    sampler["class_type"] = "KSampler"
    sampler["inputs"] |= {"model": [loader, 0], "negative": sampler["inputs"]["positive"], "cfg": 1.0}
    sampler["inputs"] |= {"sampler_name": "euler", "scheduler": "normal"}
    pair = Image.new("RGB", (2 * SIDE_PIXELS + GAP_PIXELS, SIDE_PIXELS + 2 * LETTER_PIXELS), "white")
    brush = ImageDraw.Draw(pair)
    for k, (said, graph) in enumerate((("without the LCM-LoRA", slow), ("with it", fast))):
        picture = thumbnails.draw(client, graph).resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.LANCZOS)
        left = k * (SIDE_PIXELS + GAP_PIXELS)
        pair.paste(picture, (left, 2 * LETTER_PIXELS))
        brush.text((left + GAP_PIXELS, LETTER_PIXELS // 2), said, "black", ImageFont.load_default(LETTER_PIXELS))
    save(pair, "VegaLCMLora")


@contextlib.contextmanager
def empty_model_files(models: Path):
    """Empty files for those of MODELS that are missing."""
    missing = [path for path in (models / name for name in MODELS) if not path.exists()]
    for path in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    yield
    for path in missing:
        path.unlink()


def prompt(template: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{template}.json").read_text(encoding="utf-8"))


def save(picture: Image.Image, name: str) -> None:
    path = DOCS / f"{name}.webp"
    picture.convert("RGB").save(path, quality=85)
    print(path, picture.size, path.stat().st_size)


def main() -> None:
    chromium = shutil.which("chromium")
    if not chromium:
        raise SystemExit("The help pictures need chromium on the PATH.")
    with empty_model_files(ROOT / ".comfyui" / "models"), comfyui.serve(ROOT / ".comfyui") as server:
        for name, value in SETTINGS.items():
            server.post("/settings", {name: value})
        with tempfile.TemporaryDirectory() as profile, browser.opened(server, Path(profile), chromium) as page:
            screenshots(page)
        with Client(server.url) as client:
            comparisons(client)


if __name__ == "__main__":
    main()
