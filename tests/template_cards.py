"""The templates as people use them: opened from their cards, in both of the frontend's renderers."""

import json
from pathlib import Path

import numpy as np
from page_graphs import picture_in
from PIL import Image
from workflow_files import FIRST_NAMES, WORKFLOWS, nodes, template
from workflow_files import read as read_file

from dev import browser
from dev.browser import node_js
from dev.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[1]
# What the prompt of each template that runs by itself says, as far as one seed's picture is sure to show it.
DRAWN = {
    "vega_txt2img": dict(time="dawn", terrain="forest", water="lake"),
    "vega_img2img": dict(time="day", terrain="forest", water="lake", light="sun"),
    "vega_inpaint": dict(time="day", terrain="forest", water="lake", light="sun", clouds="cloudy"),
    "vega_live_drawing": dict(time="night", terrain="desert", light="full moon"),
    "vega_steps_compared": None,  # four pictures
    "vega_plain_beside_rt": None,  # two
    "vega_send_image_api": dict(time="night", terrain="sea", stars="stars", object="boat"),
}
# The node that shows the picture.
RESULTS = {
    FIRST_NAMES[path.stem]: next(n["type"] for n in nodes(read_file(path)) if n["type"] in ("SaveImage", "VegaSendImage"))
    for path in WORKFLOWS
}
RENDERERS = {"classic": False, "Nodes 2.0": True}
INSTANCE = "window.app.graph.nodes.find(n => n.subgraph)"  # of the subgraph
PROMPT = f"{INSTANCE}.widgets.find(w => w.name === 'prompt')"
PROMPTS = "window.app.graph.nodes.flatMap(n => n.widgets ?? []).filter(w => w.name === 'prompt')"


def face(name: str) -> str:
    """The widget of this name on the subgraph's node."""
    return f"{INSTANCE}.widgets.find(w => w.name === {json.dumps(name)})"


def set_renderer(page, name: str) -> None:
    page.evaluate("on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", RENDERERS[name])
    page.wait_for_function("on => window.LiteGraph.vueNodesMode === on", arg=RENDERERS[name])


def is_vue(page) -> bool:
    return page.evaluate("window.LiteGraph.vueNodesMode")


def open_card(page, name: str) -> dict:
    """Opens a template as people do, by its card; gives its file."""
    workflow, title = template(name), TEMPLATES[name].title
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(ROOT.name, exact=True).first.click()  # nodes say the pack's name, too
    card = page.get_by_test_id(f"template-workflow-{title}")
    # The dialog draws its cards anew after a while; on a busy machine that came between a click's press and its release.
    card.dispatch_event("click")
    card.wait_for(state="detached")
    page.wait_for_function(
        "([id, count]) => window.app.graph.id === id && window.app.graph.nodes.length === count",
        arg=[workflow["id"], len(workflow["nodes"])],
    )
    browser.poll_page(page, browser.VIEW_STILL_JS)
    return workflow


def element(page, kind: str):
    """A node of Nodes 2.0."""
    return page.locator(f"[data-node-id='{page.evaluate(f'{node_js(kind)}.id')}']")


def prompt_box(page):
    """Where one types; what is inside a subgraph has a box, too, which is hidden."""
    if is_vue(page):
        return page.locator(f"[data-node-id='{page.evaluate(f'{INSTANCE}.id')}'] textarea:visible").first
    boxes = page.locator("[data-testid=dom-widget-textarea]:visible")  # other nodes have some, too
    find = "(boxes, said) => boxes.findIndex(box => box.value === said)"
    return boxes.nth(boxes.evaluate_all(find, page.evaluate(f"{PROMPT}.value")))


def point(page, kind: str, x: float, y: float) -> list[float]:
    """Where in the window a point of a node is, in the node's own units from its upper left below the title."""
    return page.evaluate(
        f"""([x, y]) => {{
            const {{ pos }} = {node_js(kind)}
            const {{ left, top }} = window.app.canvas.canvas.getBoundingClientRect()
            const [right, down] = window.app.canvas.ds.convertOffsetToCanvas([pos[0] + x, pos[1] + y])
            return [left + right, top + down]
        }}""",
        [x, y],
    )


def source(page, kind: str) -> str | None:
    """The URL of the picture that a node shows, once it is there; None if there is none."""
    if is_vue(page):
        image = element(page, kind).locator("img")
        return image.first.get_attribute("src") if image.count() else None
    return page.evaluate(f"{node_js(kind)}.imgs?.[0]?.src ?? null")


def run(page, kind: str) -> Image.Image:
    """Presses Run, and gives the picture that the node shows then, which it did not show before."""
    before = source(page, kind)
    assert browser.run_workflow(page) == "execution_success"
    if is_vue(page):
        page.wait_for_function(
            "([id, before]) => ![null, before].includes("
            "document.querySelector(`[data-node-id='${id}'] img`)?.getAttribute('src') ?? null)",
            arg=[page.evaluate(f"{node_js(kind)}.id"), before],
        )
        return picture_in(page, element(page, kind).locator("img"))
    page.wait_for_function(f"before => ![null, before].includes({node_js(kind)}.imgs?.[0]?.src ?? null)", arg=before)
    return browser.shown_image(page, kind).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean of the absolute difference, of 255."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())
