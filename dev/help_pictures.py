"""Draws the pictures of the help pages, web/docs/*.webp: nodes in ComfyUI's own page, and what vega-nano draws with them."""

import copy
import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vega_client import Client

from . import browser, thumbnails
from .host import ROOT

DOCS_DIR = ROOT / "web" / "docs"
# Node: the template, as programs queue it, that has it.
NODE_TEMPLATES = {
    "VegaLoader": "vega_txt2img_1024",
    "VegaLoraLoader": "vega_style_lora",
    "VegaAccelerate": "vega_txt2img",
    "VegaTinyVAEDecode": "vega_txt2img",
    "VegaSendImage": "vega_send_image_api",
    "VegaReceiveImage": "vega_img2img",
    "VegaTrainLora": "vega_train_lora",
    "VegaTrainLCMLora": "vega_train_lcm_lora",
    "VegaLiveImage": "vega_live_paint",
    "VegaLiveLatent": "vega_live_webcam",
}
# What they name. The files need only be there: ComfyUI outlines a node whose file is missing.
MODELS = ("checkpoints/segmind-vega.safetensors", "checkpoints/sd_xl_base_1.0.safetensors")
MODELS += ("loras/Segmind-VegaRT.safetensors", "loras/pixel-art-xl.safetensors", "loras/lcm-lora-sdxl.safetensors")
PAGE_SIZE = {"width": 1200, "height": 900}
NODE_WIDTH, NODE_MARGIN, TITLE_HEIGHT = 320, 12, 30  # in the canvas's units; one is a point of the page
PICTURE_HEIGHT = 360  # of a node that shows a picture
SIDE_PIXELS, GAP_PIXELS, LETTER_PIXELS = 384, 12, 26
TOGGLE_FOCUS_MODE_JS = "window.app.extensionManager.toggleFocusMode()"
# Puts the node into the upper left corner, and gives its width and height with what is around it.
FRAME_NODE_JS = """([kind, wide, picture, around, title]) => {
    const { canvas } = window.app, node = canvas.graph.nodes.find(n => n.type === kind)
    node.setSize([wide, node.imgs ? picture : node.computeSize()[1]])
    for (const other of canvas.graph.nodes) if (other.pos[0] > node.pos[0]) other.pos[0] += wide  // out of sight
    canvas.deselectAll()
    canvas.ds.scale = 1
    canvas.ds.offset = [around - node.pos[0], around + title - node.pos[1]]
    canvas.setDirty(true, true)
    return [node.size[0] + 2 * around, node.size[1] + title + 2 * around]
}"""


def place_files(models: Path) -> None:
    """Empty files in the place of MODELS."""
    for name in MODELS:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()


def write(page: browser.Page, client: Client) -> None:
    page.set_viewport_size(PAGE_SIZE)
    for kind, template in NODE_TEMPLATES.items():
        save_picture(screenshot_node(page, kind, template), kind)
    save_picture(thumbnails.draw_picture(client, thumbnails.read_prompt("vega_steps_compared")), "VegaLCMSampler")
    save_picture(draw_lora_comparison(client), "VegaLCMLora")


def screenshot_node(page: browser.Page, kind: str, template: str) -> Image.Image:
    graph = thumbnails.read_prompt(template)
    page.evaluate("([graph, name]) => window.app.loadApiJson(graph, name)", [graph, template])
    page.wait_for_function(f"window.app.graph.nodes.length === {len(graph)}")
    if kind == "VegaSendImage":
        browser.run_workflow(page)
        browser.shown_image(page, kind)
    page.evaluate(TOGGLE_FOCUS_MODE_JS)  # no menus over the canvas
    page.mouse.move(PAGE_SIZE["width"] - 1, PAGE_SIZE["height"] - 1)  # no tooltip either
    page.wait_for_timeout(1000)  # the view still moves
    width, height = page.evaluate(FRAME_NODE_JS, [kind, NODE_WIDTH, PICTURE_HEIGHT, NODE_MARGIN, TITLE_HEIGHT])
    if kind == "VegaLiveImage":
        draw_live_picture(page)
    page.wait_for_timeout(1000)
    picture = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
    page.evaluate(TOGGLE_FOCUS_MODE_JS)
    return Image.open(io.BytesIO(picture))


def draw_live_picture(page: browser.Page) -> None:
    live = page.locator(".vega-live button.live")
    live.click()
    page.locator(".vega-live img[data-frame]").wait_for()
    live.click()


def draw_lora_comparison(client: Client) -> Image.Image:
    """One prompt in two steps, without the LCM-LoRA and with it."""
    fast = thumbnails.read_prompt("vega_txt2img")
    next(node for node in fast.values() if node["class_type"] == "VegaLCMSampler")["inputs"]["steps"] = 2
    slow = copy.deepcopy(fast)
    sampler = next(node for node in slow.values() if node["class_type"] == "VegaLCMSampler")
    loader = next(id for id, node in slow.items() if node["class_type"] == "VegaLoader")
    sampler["class_type"] = "KSampler"
    sampler["inputs"] |= {"model": [loader, 0], "negative": sampler["inputs"]["positive"], "cfg": 1.0}
    sampler["inputs"] |= {"sampler_name": "euler", "scheduler": "normal"}
    pair = Image.new("RGB", (2 * SIDE_PIXELS + GAP_PIXELS, SIDE_PIXELS + 2 * LETTER_PIXELS), "white")
    brush = ImageDraw.Draw(pair)
    for k, (said, graph) in enumerate((("without the LCM-LoRA", slow), ("with it", fast))):
        picture = thumbnails.draw_picture(client, graph).resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.LANCZOS)
        left = k * (SIDE_PIXELS + GAP_PIXELS)
        pair.paste(picture, (left, 2 * LETTER_PIXELS))
        brush.text((left + GAP_PIXELS, LETTER_PIXELS // 2), said, "black", ImageFont.load_default(LETTER_PIXELS))
    return pair


def save_picture(picture: Image.Image, name: str) -> None:
    path = DOCS_DIR / f"{name}.webp"
    picture.convert("RGB").save(path, quality=85, method=6)
    print(path, picture.size, path.stat().st_size)
