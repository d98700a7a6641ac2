"""The templates in ComfyUI's page: opened from their cards, read, run, changed, seen as an app."""

from pathlib import Path

import numpy as np
import pytest
from page_graphs import drop, read, refresh
from workflow_files import FIRST_NAMES, WORKFLOWS, nodes, template
from workflow_files import read as read_file

from dev import browser
from dev.browser import node
from dev.templates import TEMPLATES

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = [(1280, 720, 0.58), (1600, 1000, 0.7), (1920, 1080, 0.7)]  # width, height, least zoom
# What the prompt of each template says, and the node that shows the picture.
DRAWN = {
    "vega_txt2img": ("SaveImage", dict(time="dawn", terrain="forest", water="lake")),
    "vega_img2img": ("SaveImage", dict(time="day", terrain="forest", water="lake", light="sun")),
    "vega_inpaint": ("SaveImage", dict(time="day", terrain="forest", water="lake", light="sun", clouds="cloudy")),
    "vega_live_drawing": ("VegaSendImage", dict(time="night", terrain="desert", light="full moon")),
    "vega_send_image_api": ("VegaSendImage", dict(time="night", terrain="sea", stars="stars", object="boat")),
}
PROMPT_BOX = "[data-testid=dom-widget-textarea]:visible"  # what is inside the subgraph has one, too
PROMPT = "window.app.graph.nodes.find(n => n.subgraph).widgets.find(w => w.name === 'prompt')"


@pytest.fixture(autouse=True)
def calm(page):
    """Each test begins without complaints and errors, and as people find the queue and the window."""
    page.complaints.clear()
    yield
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'disabled'")
    page.set_viewport_size({"width": 1600, "height": 900})


@pytest.fixture(scope="module")
def downloaded(page, place):
    """Files of every name that a template asks for."""
    for path in WORKFLOWS:
        for one in nodes(read_file(path)):
            for model in one["properties"].get("models", ()):
                place(f"{model['directory']}/{model['name']}")
    for name in ("small-sd", "tiny-sd"):
        place(f"diffusers/{name}/model_index.json", b"{}")
    refresh(page)


def open_card(page, name: str) -> dict:
    """Opens a template as people do, by its card; gives its file."""
    workflow, title = template(name), TEMPLATES[name].title
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(ROOT.name, exact=True).first.click()
    card = page.get_by_test_id(f"template-workflow-{title}")
    # The dialog draws its cards anew after a while; on a busy machine that came between a click's press and its release.
    card.dispatch_event("click")
    card.wait_for(state="detached")
    page.wait_for_function(
        "([id, count]) => window.app.graph.id === id && window.app.graph.nodes.length === count",
        arg=[workflow["id"], len(workflow["nodes"])],
    )
    return workflow


def test_a_model_that_is_not_there_is_outlined_and_offered(page):
    open_card(page, "vega_txt2img_1024")
    page.get_by_test_id("error-overlay-see-errors").click()
    for name in ("segmind-vega.safetensors", "Segmind-VegaRT.safetensors"):
        assert page.get_by_text(name, exact=True).count()
    assert page.get_by_test_id("missing-model-download").count() == 2
    page.keyboard.press("Escape")


RESULTS = {
    FIRST_NAMES[path.stem]: next(n["type"] for n in nodes(read_file(path)) if n["type"] in ("SaveImage", "VegaSendImage"))
    for path in WORKFLOWS
}


def corners(page, kind: str) -> list[float]:
    """Left, top, right and bottom of a node in the window."""
    return page.evaluate(
        f"""() => {{
            const {{ pos, size }} = {node(kind)}
            const {{ ds }} = window.app.canvas
            return [...ds.convertOffsetToCanvas(pos), ...ds.convertOffsetToCanvas([pos[0] + size[0], pos[1] + size[1]])]
        }}"""
    )


@pytest.mark.parametrize(("width", "height", "least"), WINDOWS)
def test_each_card_opens_a_template_that_can_be_read(page, downloaded, width, height, least):
    """Text is drawn, the prompt can be typed into, and prompt, Run and the result are in sight."""
    page.set_viewport_size({"width": width, "height": height})
    page.reload()  # the frontend keeps the view of each graph that was open
    browser.wait_until_ready(page)
    page.complaints.clear()  # the host looks for files that needn't be there
    for name in TEMPLATES:
        workflow = open_card(page, name)
        page.wait_for_function("least => window.app.canvas.ds.scale >= least", arg=least, timeout=20_000)
        assert browser.outlined(page) == []
        prompt, run = page.locator(PROMPT_BOX).first, page.get_by_test_id("queue-button")
        prompt.click()
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        boxes = [
            (b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"]) for b in (prompt.bounding_box(), run.bounding_box())
        ]
        for left, top, right, bottom in [corners(page, RESULTS[name]), *boxes]:
            assert (left >= 0, top >= 0, right <= width, bottom <= height) == (True, True, True, True), name
        laid_out = {str(n["id"]): [*n["pos"], *n["size"]] for n in workflow["nodes"]}
        found = page.evaluate(
            "Object.fromEntries(window.app.graph.nodes.map(n => [n.id, [...n.pos, ...n.size].map(Math.round)]))"
        )
        assert found == laid_out
        for text in page.locator(".comfy-markdown:visible").all():
            assert text.evaluate("note => note.scrollHeight <= note.clientHeight"), f"the note of {name} has to be scrolled"
    assert page.complaints == []


@pytest.mark.parametrize("name", DRAWN)
def test_run_draws_what_the_prompt_says(page, name, tmp_path):
    shows, expected = DRAWN[name]
    open_card(page, name)
    assert browser.run(page) == "execution_success"
    picture = browser.shown(page, shows)
    page.screenshot(path=tmp_path / f"{name}.png")
    seen = read(picture)
    assert {key: seen[key] for key in expected} == expected
    assert page.complaints == []


def test_the_second_run_draws_another_picture(page):
    open_card(page, "vega_txt2img")
    pictures = []
    for _ in range(2):
        source = page.evaluate(f"{node('SaveImage')}.imgs?.[0]?.src ?? null")
        assert browser.run(page) == "execution_success"
        browser.center(page, "SaveImage")
        page.wait_for_function(f"source => ({node('SaveImage')}.imgs?.[0]?.src ?? source) !== source", arg=source)
        pictures.append(np.asarray(browser.shown(page, "SaveImage").convert("RGB"), dtype=float))
    assert np.abs(pictures[0] - pictures[1]).mean() > 1


def test_a_typed_prompt_is_drawn(page):
    open_card(page, "vega_txt2img")
    box = page.locator(PROMPT_BOX).first
    box.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("night, the sea with a boat, stars")
    assert browser.run(page) == "execution_success"
    seen = read(browser.shown(page, "SaveImage"))
    assert (seen["time"], seen["terrain"], seen["object"]) == ("night", "sea", "boat")


def test_a_saved_picture_brings_the_subgraph_back(page):
    """A picture that was saved, dropped on the canvas, is the graph with its subgraph and what was typed."""
    workflow = open_card(page, "vega_txt2img")
    page.evaluate(f"{PROMPT}.value = 'a red sunset over hills'")
    assert browser.run(page) == "execution_success"
    browser.shown(page, "SaveImage")
    drop(page, page.evaluate(f"{node('SaveImage')}.imgs[0].src"), "saved.png")
    page.wait_for_function(f"window.app.graph.nodes.length === {len(workflow['nodes'])}")
    assert page.evaluate(f"{PROMPT}.value") == "a red sunset over hills"
    assert browser.run(page) == "execution_success"
    assert browser.outlined(page) == []


@pytest.mark.soak  # on a busy machine the page may be drawn anew while one types
@pytest.mark.parametrize("name", ["vega_txt2img", "vega_img2img", "vega_live_drawing"])
def test_the_app_view_draws(page, name):
    """App view: type, Run, and the result is there; back to the graph after it."""
    open_card(page, name)
    page.evaluate("window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
    try:
        page.get_by_text("Number of runs").wait_for()
        box = page.locator("textarea:visible").last
        box.fill("a bright day, hills with a house")
        count = page.evaluate("window.ended.length")
        page.get_by_role("button", name="Run", exact=True).last.click()
        page.wait_for_function(f"window.ended.length > {count}")
        assert page.evaluate(f"window.ended[{count}]") == "execution_success"
        assert page.evaluate(f"{PROMPT}.value") == "a bright day, hills with a house"
    finally:
        page.evaluate("window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
        page.evaluate("window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")  # it had turned them on


def test_the_template_browser_shows_each_with_its_picture(page):
    """In their order: the first one first."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(ROOT.name, exact=True).first.click()
    page.get_by_test_id(f"template-workflow-{TEMPLATES['vega_txt2img'].title}").wait_for()
    for template_ in TEMPLATES.values():
        card = page.get_by_test_id(f"template-workflow-{template_.title}")
        card.scroll_into_view_if_needed()
        card.locator("img").first.evaluate("image => image.decode()")
    order = page.locator("[data-testid^='template-workflow-']").evaluate_all("cards => cards.map(c => c.dataset.testid)")
    ours = [id.removeprefix("template-workflow-") for id in order]
    assert [title for title in ours if title[:2].isdigit()] == [template_.title for template_ in TEMPLATES.values()]
    page.keyboard.press("Escape")


def test_an_old_link_opens_the_template(page, server):
    """?template=vega_txt2img, as people have linked to it."""
    opened = page.context.new_page()
    try:
        opened.goto(f"{server.url}/?template=vega_inpaint&source={ROOT.name}")
        opened.wait_for_function(f"window.app?.graph?.id === '{template('vega_inpaint')['id']}'")
    finally:
        opened.close()


@pytest.mark.soak
def test_a_grid_has_a_picture_in_each_cell(page, tmp_path):
    open_card(page, "vega_steps_compared")
    assert browser.run(page) == "execution_success"
    grid = browser.shown(page, "SaveImage")
    page.screenshot(path=tmp_path / "grid.png")
    cells = [grid.crop((x, y, x + 384, y + 384)) for y in range(0, grid.height - 383, 388) for x in (0, grid.width - 384)]
    assert len(cells) == 4
    for cell in cells[-2:]:  # one step is rough
        seen = read(cell.resize((128, 128)))
        assert (seen["time"], seen["water"]) == ("sunset", "lake")
