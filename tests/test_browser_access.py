"""Whether a template can be used without a mouse and read by weak eyes: keys, and contrast as the page draws it."""

import io

import numpy as np
import pytest
from contrast import contrast
from page_graphs import read
from PIL import Image
from template_cards import INSTANCE, PROMPT, face, is_vue, open_card, point, prompt_box

from dev import browser
from dev.templates import TEMPLATES

OPEN_PANEL = "[aria-label='Toggle properties panel'][aria-pressed='true']"
TABS = 150  # more than the page has stops
BOTH = pytest.mark.parametrize("renderer", ["classic", pytest.param("Nodes 2.0", marks=pytest.mark.soak)], indirect=True)
# (text, its colour, the colour behind it) of a node, except for the small label that the frontend lays over a prompt.
TEXTS = """node => [...node.querySelectorAll('*')]
    .filter(one => !one.closest('label, textarea') && !one.parentElement.querySelector(':scope > textarea'))
    .filter(one => [...one.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()))
    .map(one => {
        let behind = one
        while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement
        return [one.textContent.trim(), getComputedStyle(one).color, getComputedStyle(behind).backgroundColor]
    })"""


@pytest.fixture(autouse=True)
def calm(page):
    page.console_errors.clear()
    yield
    page.evaluate("window.app.canvas.setGraph(window.app.graph)")
    page.set_viewport_size({"width": 1600, "height": 900})


def tab_to(page, is_there: str) -> None:
    """Presses Tab until the focused element is the one that a JavaScript function of it knows."""
    for _ in range(TABS):
        page.keyboard.press("Tab")
        if page.evaluate(f"({is_there})(document.activeElement)"):
            return
    raise AssertionError(f"Tab never comes to {is_there}")


@BOTH
def test_keys_alone_draw_a_picture(page, server, renderer):
    """Tab comes to the prompt, Ctrl+Enter runs, Tab comes to the seed: in the classic renderer in the panel of the node."""
    open_card(page, "vega_live_drawing")
    page.evaluate("document.activeElement.blur()")
    said = page.evaluate(f"{PROMPT}.value")
    tab_to(page, f"one => one.tagName === 'TEXTAREA' && one.value === {said!r} && one.getClientRects().length > 0")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("night, the sea with a boat, stars")
    count = page.evaluate("window.ended.length")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(f"window.ended.length > {count} && window.app.ui.lastQueueSize === 0")
    assert page.evaluate(f"window.ended[{count}]") == "execution_success"
    (entry,) = server.get("/history", max_items=1).json().values()
    (image,) = [image for output in entry["outputs"].values() for image in output["images"]]
    with Image.open(io.BytesIO(server.get("/view", **image).content)) as picture:
        assert read(picture)["object"] == "boat"
    if not is_vue(page):
        prompt_box(page).focus()  # selects its node
    if not is_vue(page) and not page.locator(OPEN_PANEL).count():  # as a help page leaves it
        tab_to(page, "one => one.ariaLabel === 'Toggle properties panel'")
        page.keyboard.press("Enter")
    page.evaluate(f"{face('seed')}.value = 4711")
    tab_to(page, "one => one.tagName === 'INPUT' && one.value === '4711'")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("4712")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{face('seed')}.value === 4712")
    if not is_vue(page):
        page.locator(OPEN_PANEL).click()


@pytest.mark.parametrize("renderer", ["Nodes 2.0"], indirect=True)
def test_text_stands_out_with_nodes_2(page, renderer):
    """4.5 to 1 for titles, names, labels and notes (WCAG 2.2, 1.4.3), by the colours that the page draws."""
    open_card(page, "vega_txt2img")
    texts = [text for box in page.locator("[data-node-id]").all() for text in box.evaluate(TEXTS)]
    assert {"Read me", "Save Image", "seed", "steps", "width"} <= {said for said, *_ in texts}
    for said, ink, paper in texts:
        assert contrast(ink, paper) >= 4.5, f"{said}: {ink} on {paper}"


def measured(page, path, left: float, top: float, width: float, height: float) -> float:
    """The contrast of a part of the window: of its commonest colour and the one that stands out most."""
    page.screenshot(path=path, clip={"x": left, "y": top, "width": width, "height": height})
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    paper, *inks = ("#{:02x}{:02x}{:02x}".format(*colours[k]) for k in np.argsort(-counts))
    return max(contrast(ink, paper) for ink in inks)


def test_titles_stand_out_in_the_classic_renderer(page, tmp_path):
    """By a screenshot: 4.5 to 1 for a node's title."""
    open_card(page, "vega_txt2img")
    page.evaluate("window.app.canvas.deselectAll()")
    browser.center_node(page, "SaveImage")
    browser.poll_page(page, browser.VIEW_STILL_JS)
    x, y = point(page, "SaveImage", 0, 0)
    assert measured(page, tmp_path / "node.png", x + 30, y - 26, 120, 22) >= 4.5


# The name of the first group, in the window: left and top of where its text begins, and the zoom.
NAME = """() => {
    const { canvas, graph, ds } = window.app.canvas
    const { left, top } = canvas.getBoundingClientRect()
    const [x, y] = ds.convertOffsetToCanvas(graph.groups.find(group => group.title).pos)
    return [left + x + 10 * ds.scale, top + y, ds.scale]
}"""


@BOTH
@pytest.mark.parametrize("name", ["vega_inpaint", pytest.param("vega_txt2img", marks=pytest.mark.soak)])
def test_names_of_groups_stand_out(page, tmp_path, renderer, name):
    """By a screenshot: 4.5 to 1 as the subgraph opens, where small titles of nodes aren't even drawn, and at 100 %."""
    open_card(page, name)
    page.evaluate(f"window.app.canvas.setGraph({INSTANCE}.subgraph)")
    browser.poll_page(page, browser.VIEW_STILL_JS)
    *at, zoom = page.evaluate(NAME)
    assert zoom < 1
    assert name_contrast(page, tmp_path / f"{name}.png", *at, zoom) >= 4.5
    browser.poll_page(page, browser.SET_VIEW_JS, {"scale": 1, "offset": [400, 400]})
    assert name_contrast(page, tmp_path / "large.png", *page.evaluate(NAME)) >= 4.5


def name_contrast(page, path, left: float, top: float, zoom: float) -> float:
    """Of the 80 units in which a name begins; the mark before it is not measured."""
    return measured(page, path, left, top + 3 * zoom, 80 * zoom, 24 * zoom)


DRAWN_INSIDE = "window.app.canvas.graph.nodes.every(n => document.querySelector(`[data-node-id='${n.id}']`))"
# Those nodes of the open graph that lie outside their frame, whose bar bears its name: [title, below, right], in units.
OUTSIDE = """() => {
    const { graph, ds } = window.app.canvas
    const frames = graph.groups.filter(group => !group.title).map(group => group.boundingRect)
    return graph.nodes.map(node => {
        const [x, y] = node.pos
        const [left, top, width, height] = frames.find(([l, t, w, h]) => x > l && x < l + w && y > t && y < t + h)
        const { width: wide, height: high } = document.querySelector(`[data-node-id='${node.id}']`).getBoundingClientRect()
        return [node.title, y - 30 + high / ds.scale - top - height, x + wide / ds.scale - left - width]
    }).filter(([, below, right]) => below > -5 || right > -5)
}"""


def opened_subgraphs(page):
    """Each subgraph of each template, opened: (the template's first name, its number)."""
    for name in TEMPLATES:
        open_card(page, name)
        for k in range(page.evaluate("window.app.graph.nodes.filter(n => n.subgraph).length")):
            page.evaluate(f"window.app.canvas.setGraph(window.app.graph.nodes.filter(n => n.subgraph)[{k}].subgraph)")
            if is_vue(page):
                page.wait_for_function(DRAWN_INSIDE)
            browser.poll_page(page, browser.VIEW_STILL_JS)
            yield name, k
            page.evaluate("window.app.canvas.setGraph(window.app.graph)")


@pytest.mark.soak
@pytest.mark.parametrize("renderer", ["Nodes 2.0"], indirect=True)
def test_nodes_stay_in_their_frames_with_nodes_2(page, renderer):
    """There nodes are higher than their files say, if what is in them is: a name below them would be covered."""
    for subgraph in opened_subgraphs(page):
        assert page.evaluate(OUTSIDE) == [], subgraph


# The places of all names of groups in the window, as a screenshot's clips; the frontend writes 20 units high.
CLIPS = """() => {
    const { canvas, graph, ds } = window.app.canvas
    const { left, top } = canvas.getBoundingClientRect()
    return graph.groups.filter(group => group.title).map(group => {
        const [x, y] = ds.convertOffsetToCanvas(group.pos)
        const [right, down, width, height] = [10, 5, 10 * group.title.length, 22].map(units => units * ds.scale)
        return { x: left + x + right, y: top + y + down, width, height }
    })
}"""
HIDE_LINKS = """hide => {
    window.app.canvas.links_render_mode = hide ? LiteGraph.HIDDEN_LINK : LiteGraph.SPLINE_LINK
    window.app.canvas.setDirty(true, true)
    return new Promise(answer => setTimeout(answer, 150))
}"""


@pytest.mark.soak
@pytest.mark.parametrize("renderer", ["classic", "Nodes 2.0"], indirect=True)
def test_no_link_crosses_the_name_of_a_group(page, renderer):
    """The names look the same without links; in a window so large that nothing of the page lies over them."""
    page.set_viewport_size({"width": 2400, "height": 1300})
    for subgraph in opened_subgraphs(page):
        clips = page.evaluate(CLIPS)
        drawn = [page.screenshot(clip=clip) for clip in clips]
        page.evaluate(HIDE_LINKS, True)
        assert [page.screenshot(clip=clip) for clip in clips] == drawn, subgraph
        page.evaluate(HIDE_LINKS, False)
