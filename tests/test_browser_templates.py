"""The templates in ComfyUI's page: opened from their cards, read, run, changed, dropped again, seen as an app."""

import itertools
import json

import pytest
from page_graphs import drop, picture_in, read, refresh
from template_cards import (
    DRAWN,
    PROMPT,
    PROMPTS,
    RENDERERS,
    RESULTS,
    ROOT,
    difference,
    element,
    face,
    is_vue,
    open_card,
    prompt_box,
    run,
    source,
)
from workflow_files import WORKFLOWS, nodes, template
from workflow_files import read as read_file

from dev import browser
from dev.browser import node_js
from dev.templates import TEMPLATES

WINDOWS = [(1280, 720, 0.58), (1600, 1000, 0.7), (1920, 1080, 0.7)]  # width, height, least zoom
NODES2 = pytest.param("Nodes 2.0", marks=pytest.mark.soak)
in_both = pytest.mark.parametrize("renderer", ["classic", "Nodes 2.0"], indirect=True)
# With Nodes 2.0 only in the soak, where what differs is the renderer's alone.
# The classic one is used in test_browser_access.py.
in_nodes2 = pytest.mark.parametrize(
    "renderer", [pytest.param("classic", marks=pytest.mark.soak), "Nodes 2.0"], indirect=True
)
in_classic = pytest.mark.parametrize("renderer", ["classic", NODES2], indirect=True)


@pytest.fixture(autouse=True)
def calm(page):
    """Each test begins without complaints and errors, and as people find the queue and the window."""
    page.console_errors.clear()
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


def test_a_model_that_is_not_there_is_outlined_and_offered(page):
    open_card(page, "vega_txt2img_1024")
    page.get_by_test_id("error-overlay-see-errors").click()
    for name in ("segmind-vega.safetensors", "Segmind-VegaRT.safetensors"):
        assert page.get_by_text(name, exact=True).count()
    assert page.get_by_test_id("missing-model-download").count() == 2
    page.get_by_label("Toggle properties panel").click()


# The parts of the window, in a grid, in which a node would be seen if nothing lay over it, and whether it is.
IN_SIGHT = """([left, top, right, bottom]) => {
    const at = (from, to, k) => from + (to - from) * (k + 0.5) / 10
    const seen = []
    for (let i = 0; i < 10; i++) for (let k = 0; k < 10; k++) {
        const on = document.elementFromPoint(at(left, right, i), at(top, bottom, k))
        seen.push(on?.id === 'graph-canvas' || !!on?.closest('[data-node-id], .dom-widget'))
    }
    return seen.filter(Boolean).length / 100
}"""


def corners(page, kind: str) -> list[float]:
    """Left, top, right and bottom of a node in the window."""
    return page.evaluate(
        f"""() => {{
            const {{ pos, size }} = {node_js(kind)}
            const {{ ds }} = window.app.canvas
            return [...ds.convertOffsetToCanvas(pos), ...ds.convertOffsetToCanvas([pos[0] + size[0], pos[1] + size[1]])]
        }}"""
    )


def edges(box: dict) -> tuple[float, float, float, float]:
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


def scrolled(page) -> bool:
    """Whether the note is too long for its node."""
    texts = element(page, "MarkdownNote").locator("*") if is_vue(page) else page.locator(".comfy-markdown:visible")
    return texts.evaluate_all("texts => texts.some(t => t.clientHeight && t.scrollHeight > t.clientHeight + 1)")


@pytest.mark.parametrize(
    ("renderer", "width", "height", "least", "names"),
    # Some of them in each renderer, and all of them everywhere in the soak.
    [("classic", *WINDOWS[1], [*TEMPLATES][::4]), ("Nodes 2.0", *WINDOWS[0], [*TEMPLATES][2::4])]
    + [pytest.param(name, *window, [*TEMPLATES], marks=pytest.mark.soak) for name in RENDERERS for window in WINDOWS],
    indirect=["renderer"],
    ids=lambda value: f"{len(value)} cards" if isinstance(value, list) else None,
)
def test_each_card_opens_a_template_that_can_be_read(page, downloaded, renderer, width, height, least, names):
    """Text is drawn, the prompt can be typed into, and prompt, Run and the result are in sight."""
    page.set_viewport_size({"width": width, "height": height})
    if names == [*TEMPLATES]:  # the frontend keeps the view of each graph that was open
        page.reload()
        browser.wait_until_ready(page)
    page.console_errors.clear()  # the host looks for files that needn't be there
    for name in names:
        workflow = open_card(page, name)
        page.wait_for_function("least => window.app.canvas.ds.scale >= least", arg=least)
        assert browser.outlined_nodes(page) == []
        prompt, run_button = prompt_box(page), page.get_by_test_id("queue-button")
        prompt.click()
        page.keyboard.type("!")
        assert page.evaluate(f"{PROMPTS}.filter(prompt => prompt.value.includes('!')).length") == 1
        boxes = [edges(prompt.bounding_box()), edges(run_button.bounding_box())]
        for left, top, right, bottom in [corners(page, RESULTS[name]), *boxes]:
            assert (left >= 0, top >= 0, right <= width, bottom <= height) == (True, True, True, True), name
        assert page.evaluate(IN_SIGHT, corners(page, RESULTS[name])) > 0.8, "the minimap lies on a corner, no more"
        laid_out = {str(n["id"]): [*n["pos"], *n["size"]] for n in workflow["nodes"]}
        found = page.evaluate(
            "Object.fromEntries(window.app.graph.nodes.map(n => [n.id, [...n.pos, ...n.size].map(Math.round)]))"
        )
        assert found == laid_out
        drawn = [edges(box.bounding_box()) for box in page.locator("[data-node-id]").all()]
        for a, b in itertools.combinations(drawn, 2):
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1], f"two nodes of {name} overlap"
        assert not scrolled(page), f"the note of {name} has to be scrolled"
    assert page.console_errors == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "vega_inpaint" else pytest.mark.soak)
        for name, expected in DRAWN.items()
        if expected
    ],
)
@in_classic
def test_run_draws_what_the_prompt_says(page, renderer, name, tmp_path):
    open_card(page, name)
    seen = read(run(page, RESULTS[name]))
    page.screenshot(path=tmp_path / f"{name}.png")
    assert {key: seen[key] for key in DRAWN[name]} == DRAWN[name]
    assert page.console_errors == []


@in_nodes2
def test_a_typed_prompt_is_drawn_and_then_another(page, renderer):
    """One types and runs; the second Run draws another picture of the same prompt."""
    open_card(page, "vega_txt2img")
    prompt_box(page).click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("night, the sea with a boat, stars")
    first, second = (run(page, "SaveImage") for _ in range(2))
    for picture in (first, second):
        seen = read(picture)
        assert (seen["time"], seen["terrain"], seen["object"]) == ("night", "sea", "boat")
    assert difference(first, second) > 1


@in_classic
def test_the_1024_template_has_a_random_seed(page, downloaded, renderer):
    """The first two have: their notes say so. Its model isn't here, so the seed is asked, not the picture."""
    open_card(page, "vega_txt2img_1024")
    before = page.evaluate(f"{face('seed')}.value")
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(f"before => {face('seed')}.value !== before", arg=before)
    page.locator(".vega-error").wait_for()  # an empty file is no model
    page.keyboard.press("Escape")


# A saved PNG is dropped in test_browser_sent.py, too.
DROPPED = [
    pytest.param("vega_txt2img", "png", False, marks=pytest.mark.soak),
    ("vega_live_drawing", "webp", True),
]


@pytest.mark.parametrize(("name", "format", "is_fresh"), DROPPED)
@in_classic
def test_a_picture_brings_the_subgraph_back(page, server, renderer, name, format, is_fresh):
    """A picture dropped on the canvas is the graph with its subgraph and what was typed, in a fresh page, too."""
    workflow, kind = open_card(page, name), RESULTS[name]
    page.evaluate(f"{PROMPT}.value = 'a red sunset over hills'")
    if kind == "VegaSendImage":
        page.evaluate(f"{browser.widget_js(kind, 'format')}.value = {format!r}")
        page.evaluate(f"{browser.widget_js(kind, 'metadata')}.value = true")
    run(page, kind)
    url = source(page, kind)
    opened = page.context.new_page() if is_fresh else page
    try:
        if is_fresh:
            opened.goto(server.url)
            browser.wait_until_ready(opened)
        drop(opened, url, f"saved.{format}")
        opened.wait_for_function(f"window.app.graph.nodes.length === {len(workflow['nodes'])}")
        assert opened.evaluate(f"{PROMPT}.value") == "a red sunset over hills"
        inside = "[...window.app.graph.subgraphs.values()].map(graph => graph.nodes.length)"
        assert opened.evaluate(inside) == [len(one["nodes"]) for one in workflow["definitions"]["subgraphs"]]
        assert browser.run_workflow(opened) == "execution_success"
        assert browser.outlined_nodes(opened) == []
    finally:
        if is_fresh:
            opened.close()


def open_app_view(page) -> None:
    """A workflow that has just been opened may take the page back to its graph: until the App view has stood a second."""
    runs, stood = page.get_by_text("Number of runs"), 0
    while stood < 4:
        if not runs.is_visible():
            page.evaluate("window.app.extensionManager.command.execute('Comfy.ToggleLinear')")
            runs.wait_for()
            stood = 0
        page.wait_for_timeout(250)
        stood += 1


@pytest.mark.soak
@pytest.mark.parametrize("name", DRAWN)
@in_both
def test_the_app_view_draws(page, server, renderer, name):
    """App view: type, Run, and the result is there; back to the graph after it."""
    typed = "a bright day, hills with a house"
    open_card(page, name)
    open_app_view(page)
    try:
        said = page.evaluate(f"{PROMPT}.value")
        box = page.locator("textarea:visible").nth(0)
        page.wait_for_function("said => [...document.querySelectorAll('textarea')].some(t => t.value === said)", arg=said)
        for _ in range(9):  # on a busy machine the page may be drawn anew while one types, and forgets it
            box.fill(typed)
            if page.evaluate(f"{PROMPT}.value") == typed:
                break
        count = page.evaluate("window.ended.length")
        page.get_by_role("button", name="Run", exact=True).last.click()
        page.wait_for_function(f"window.ended.length > {count} && window.app.ui.lastQueueSize === 0")
        assert page.evaluate(f"window.ended[{count}]") == "execution_success"
        (entry,) = server.get("/history", max_items=1).json().values()
        assert typed in json.dumps(entry["prompt"])
        files = [image["filename"] for output in entry["outputs"].values() for image in output.get("images", [])]
        shown = page.locator(",".join(f"img[src*='{file}']:visible" for file in files))
        picture = picture_in(page, shown)
        if DRAWN[name] and name not in ("vega_img2img", "vega_inpaint"):
            assert read(picture)["object"] == "house"
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
    grid = run(page, "SaveImage")
    page.screenshot(path=tmp_path / "grid.png")
    cells = [grid.crop((x, y, x + 384, y + 384)) for y in range(0, grid.height - 383, 388) for x in (0, grid.width - 384)]
    assert len(cells) == 4
    for cell in cells[-2:]:  # one step is rough
        seen = read(cell.resize((128, 128)))
        assert (seen["time"], seen["water"]) == ("sunset", "lake")
