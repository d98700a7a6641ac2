"""What stands on nodes' faces in ComfyUI's page, in both of its renderers: readable, and on the right graph's."""

import io
from collections import Counter

import pytest
from contrast import contrast
from page_graphs import SAVED, open_tab
from PIL import Image
from template_cards import INSTANCE, face, open_card

from dev import browser

READABLE = 4.5  # WCAG 2.2, 1.4.3
UNKNOWN = "night, sunset, mountains, forest, lake"


@pytest.fixture(autouse=True)
def calm(page):
    yield
    page.evaluate("window.app.extensionManager.setting.set('Comfy.Locale', 'en')")
    page.set_viewport_size({"width": 1600, "height": 900})


@pytest.fixture(scope="module")
def used_renderers() -> list[str]:
    """In which the page was used."""
    return []


@pytest.fixture
def fresh_page(page, renderer, used_renderers):
    """The page in a renderer, loaded anew if it was used, since it keeps the view of each graph that was open."""
    if used_renderers:
        page.reload()
        browser.wait_until_ready(page)
    used_renderers.append(renderer)


each_renderer = pytest.mark.parametrize(
    "renderer", [pytest.param("classic", marks=pytest.mark.soak), "Nodes 2.0"], indirect=True
)


def set_widget(page, name: str, value: str) -> None:
    page.evaluate(f"{face(name)}.value = {value}")


def read(page, kind: str) -> list[str]:
    """The notes of a kind on the screen, top to bottom."""
    return [text for text in page.locator(f".vega-note-{kind}:visible").all_inner_texts() if text]


def warning(page, said: str):
    return wait_for_note(page, "warning", said)


def wait_for_note(page, kind: str, said: str):
    note = page.locator(f".vega-note-{kind}:visible", has_text=said).first
    note.wait_for()
    return note


def colours(page, note) -> tuple[str, str]:
    """What is seen of a note on a screenshot: its background, and what differs most from that, its letters."""
    box = note.bounding_box()
    inside = {"x": box["x"] + 6, "y": box["y"] + 3, "width": box["width"] - 10, "height": box["height"] - 6}
    seen = Image.open(io.BytesIO(page.screenshot(clip=inside))).convert("RGB")
    names = {f"#{r:02x}{g:02x}{b:02x}": count for (r, g, b), count in Counter(seen.getdata()).items()}
    background = max(names, key=names.get)
    return background, max(names, key=lambda name: contrast(name, background))


@pytest.mark.parametrize(
    ("renderer", "width", "height"),
    [("Nodes 2.0", 1280, 720)]
    + [
        pytest.param(*case, marks=pytest.mark.soak)
        for case in (("Nodes 2.0", 1600, 1000), ("classic", 1280, 720), ("classic", 1600, 1000))
    ],
    indirect=["renderer"],
)
def test_unknown_words_are_told_on_the_closed_subgraph(page, fresh_page, width, height, tmp_path):
    page.set_viewport_size({"width": width, "height": height})
    open_card(page, "vega_txt2img")
    sizes = "window.app.graph.nodes.map(n => [n.id, ...n.pos, ...n.size].join())"
    before = page.evaluate(sizes)
    set_widget(page, "prompt", "'portrait of a smiling woman'")
    assert browser.run_workflow(page) == "execution_success"
    note = warning(page, UNKNOWN)
    for told in ("vega-nano", "182 of 182"):  # which the page asks for where the server has their nodes in its cache
        wait_for_note(page, "info", told)
    page.screenshot(path=tmp_path / "unknown.png")
    assert len(read(page, "warning")) == 1
    assert "vega-nano" in read(page, "info")[0]
    assert "182 of 182" in read(page, "info")[1]

    box = note.bounding_box()
    assert (box["x"] > 0, box["y"] > 0, box["x"] + box["width"] < width, box["y"] + box["height"] < height) == (True,) * 4
    assert note.evaluate("note => parseFloat(getComputedStyle(note).fontSize)") >= 11
    background, letters = colours(page, note)
    assert contrast(letters, background) >= READABLE
    info = colours(page, page.locator(".vega-note-info:visible").first)
    assert contrast(*info) >= READABLE
    assert info[0] != background
    left, top, right, bottom = page.evaluate(
        f"""() => {{
            const {{ pos, size }} = {INSTANCE}
            const {{ ds }} = window.app.canvas
            return [...ds.convertOffsetToCanvas(pos), ...ds.convertOffsetToCanvas([pos[0] + size[0], pos[1] + size[1]])]
        }}"""
    )
    assert (left - 1 <= box["x"], box["x"] + box["width"] <= right + 1, box["y"] >= bottom - 1) == (True, True, True)
    assert page.evaluate(sizes) == before  # nothing has moved or grown

    set_widget(page, "prompt", "'night over a lake'")
    assert browser.run_workflow(page) == "execution_success"
    note.wait_for(state="detached")
    assert read(page, "warning") == []


@each_renderer
def test_a_far_size_is_told_with_the_one_to_use(page, renderer):
    """On the closed subgraph; when it is opened, on the sampler's own face."""
    open_card(page, "vega_txt2img")
    for side in ("width", "height"):
        set_widget(page, side, "512")
    set_widget(page, "steps", "1")
    assert browser.run_workflow(page) == "execution_success"
    warning(page, "256 x 256")
    page.evaluate(f"window.app.canvas.openSubgraph({INSTANCE}.subgraph, {INSTANCE})")
    note = warning(page, "256 x 256")
    sampler = page.evaluate("window.app.canvas.graph.nodes.find(n => n.type === 'VegaLCMSampler').id")
    assert note.evaluate("note => note.parentElement.dataset.node") == str(sampler)
    assert len(page.locator(".vega-notes:visible").all()) >= 4


def test_notes_outlast_a_second_run_and_a_reload(page):
    """In the second run all but the sampler comes from the host's cache."""
    open_card(page, "vega_txt2img")
    set_widget(page, "prompt", "'a cat on a bicycle'")
    for _ in range(2):
        assert browser.run_workflow(page) == "execution_success"
        warning(page, UNKNOWN)
        page.wait_for_timeout(500)  # nothing takes them away afterwards
        assert len(read(page, "info")) == 3
    page.wait_for_timeout(1500)  # the page keeps what was typed, for a reload, after a while
    page.reload()
    browser.wait_until_ready(page)
    warning(page, UNKNOWN)
    assert len(read(page, "info")) == 3


def test_notes_stay_with_their_own_tab(page):
    """Two copies of one graph, whose nodes have the same ids."""
    browser.load_workflow(page, SAVED["vega_txt2img"])
    assert read(page, "info") == []
    assert browser.run_workflow(page) == "execution_success"
    page.locator(".vega-note-info:visible").first.wait_for()
    browser.load_workflow(page, SAVED["vega_txt2img"])
    page.wait_for_timeout(500)
    assert read(page, "info") == []
    open_tab(page, -2)
    page.locator(".vega-note-info:visible").first.wait_for()
    open_tab(page, -1)
    page.locator(".vega-notes").first.wait_for(state="detached")
    assert browser.run_workflow(page) == "execution_success"
    page.locator(".vega-note-info:visible").first.wait_for()  # though the host had all nodes in its cache


@pytest.fixture(scope="module")
def before(page) -> str:
    """What is saved of a workflow before the run after which a note stands in it."""
    open_card(page, "vega_txt2img")
    saved = page.evaluate("JSON.stringify(window.app.graph.serialize())")
    set_widget(page, "prompt", "'a dog'")
    assert browser.run_workflow(page) == "execution_success"
    warning(page, UNKNOWN)
    return saved


def test_no_note_is_saved_with_the_workflow(page, before):
    saved = page.evaluate("JSON.stringify(window.app.graph.serialize())")
    assert "vega.note" not in saved
    assert UNKNOWN not in saved
    assert abs(len(saved) - len(before)) < 100  # the prompt and the seed


def test_a_note_is_in_the_language_of_the_page(page, before):
    warning(page, "The model knows none of these words")
    page.evaluate("window.app.extensionManager.setting.set('Comfy.Locale', 'fr')")
    page.evaluate("window.app.canvas.setDirty(true, true)")
    warning(page, "Le modèle ne connaît aucun de ces mots")
