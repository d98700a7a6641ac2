"""The shipped workflows in ComfyUI's page: opened as laid out, run, and with what they need missing."""

from pathlib import Path

import pytest
from page_graphs import TEMPLATES, read, refresh

from dev import browser
from dev.browser import node

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "vega" / "nano"
# What the prompt of each template says, and the node that shows the picture.
DRAWN = {
    "vega_txt2img": ("SaveImage", dict(time="dawn", terrain="forest", water="lake")),
    "vega_img2img": ("SaveImage", dict(time="day", terrain="forest", water="lake", light="sun")),
    "vega_inpaint": ("SaveImage", dict(time="dawn", terrain="forest", water="lake", light="sun", clouds="cloudy")),
    "vega_live_drawing": ("VegaSendImage", dict(time="night", terrain="desert", light="full moon")),
    "vega_send_image_api": ("VegaSendImage", dict(time="night", terrain="sea", stars="stars", object="boat")),
}
GRIDS = {"vega_steps_compared": 4, "vega_plain_beside_rt": 2}


@pytest.fixture(autouse=True)
def calm(page):
    """Each test begins without complaints and errors, and as people find the queue."""
    page.complaints.clear()
    yield
    page.evaluate("window.app.extensionManager.queueSettings.mode = 'disabled'")


@pytest.fixture(scope="module")
def downloaded(page, place):
    """Files of every name that a template asks for."""
    properties = [one["properties"] for workflow in TEMPLATES.values() for one in workflow["nodes"]]
    for model in [model for of_node in properties for model in of_node.get("models", ())]:
        place(f"{model['directory']}/{model['name']}")
    for name in ("small-sd", "tiny-sd"):
        place(f"diffusers/{name}/model_index.json", b"{}")
    refresh(page)


def test_a_model_that_is_not_there_is_outlined_and_offered(page):
    browser.load(page, TEMPLATES["vega_txt2img_1024"])
    page.get_by_test_id("error-overlay-see-errors").click()
    assert sorted(browser.outlined(page)) == ["VegaLCMLora", "VegaLoader"]
    for name in ("segmind-vega.safetensors", "Segmind-VegaRT.safetensors"):
        assert page.get_by_text(name, exact=True).count()
    assert page.get_by_test_id("missing-model-download").count() == 2
    page.keyboard.press("Escape")


def test_a_missing_folder_is_outlined_when_run(page):
    """A folder that is not there is outlined when Run is pressed.

    As the note says: ComfyUI's page looks only for files when a graph is opened.
    """
    browser.load(page, TEMPLATES["vega_small_sd_tiny_sd"])
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(f"{node('VegaLoader')}.has_errors")
    assert set(browser.outlined(page)) == {"VegaLoader", "VegaLCMLora"}
    page.keyboard.press("Escape")


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_opens_as_it_was_laid_out(page, downloaded, name):
    workflow = TEMPLATES[name]
    browser.load(page, workflow)
    page.wait_for_timeout(500)
    assert page.complaints == []
    assert browser.outlined(page) == []
    laid_out = {str(n["id"]): [*n["pos"], *n["size"]] for n in workflow["nodes"]}
    found = page.evaluate(
        "Object.fromEntries(window.app.graph.nodes.map(n => [n.id, [...n.pos, ...n.size].map(Math.round)]))"
    )
    assert found == laid_out
    for note in page.locator(".comfy-markdown:visible").all():
        assert note.evaluate("note => note.scrollHeight <= note.clientHeight"), "the note has to be scrolled"


@pytest.mark.parametrize("name", DRAWN)
def test_run_draws_what_the_prompt_says(page, name, tmp_path):
    shows, expected = DRAWN[name]
    browser.load(page, TEMPLATES[name])
    assert browser.run(page) == "execution_success"
    picture = browser.shown(page, shows)
    page.screenshot(path=tmp_path / f"{name}.png")
    seen = read(picture)
    assert {key: seen[key] for key in expected} == expected
    assert page.complaints == []


@pytest.mark.soak
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_has_a_picture_in_each_cell(page, name, tmp_path):
    browser.load(page, TEMPLATES[name])
    assert browser.run(page) == "execution_success"
    grid = browser.shown(page, "SaveImage")
    page.screenshot(path=tmp_path / f"{name}.png")
    cells = [grid.crop((x, y, x + 384, y + 384)) for y in range(0, grid.height - 383, 388) for x in (0, grid.width - 384)]
    assert len(cells) == GRIDS[name]
    for cell in cells[-2:]:  # one step is rough
        seen = read(cell.resize((128, 128)))
        assert (seen["time"], seen["water"]) == ("sunset", "lake")


def test_the_template_browser_shows_each_with_its_picture(page):
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text(ROOT.name, exact=True).first.click()
    for name in TEMPLATES:
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        card.locator("img").first.evaluate("image => image.decode()")
    # The dialog draws its cards anew after a while; on a busy machine that came between a click's press and its release.
    page.get_by_test_id("template-workflow-vega_img2img").dispatch_event("click")
    page.wait_for_function(f"window.app.graph.nodes.length === {len(TEMPLATES['vega_img2img']['nodes'])}")
    assert browser.outlined(page) == []
    assert page.complaints == []
