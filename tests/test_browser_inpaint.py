"""Inpainting as people do it: the template's card, an own picture, the mask editor and the mouse."""

import numpy as np
import pytest
from PIL import Image
from template_cards import element, is_vue, open_card, point, run

from dev import browser
from dev.browser import node_js, widget_js

SIZES = [(211, 157), (300, 200), (200, 300), (192, 192)]  # odd, 3:2, 2:3, 1:1
CHOSEN = f"{widget_js('LoadImage', 'image')}.value"
# The mask editor's picture, once it is as large as it will be, in the window; before, it is fitted into its frame.
FITTED = """([width, height]) => new Promise(answer => {
    const frame = () => {
        const zone = document.querySelector('[data-testid=pointer-zone]')?.getBoundingClientRect()
        const canvases = [...document.querySelectorAll('[role=dialog] canvas')]
        const canvas = canvases.find(c => c.width === width && c.height === height)
        if (!zone || !canvas) return null
        const { x, y, width: across, height: down } = canvas.getBoundingClientRect()
        const fills = Math.abs(across - zone.width) < 12 || Math.abs(down - zone.height) < 12
        return fills ? [x, y, across, down] : null
    }
    const before = frame()
    requestAnimationFrame(() => requestAnimationFrame(() => answer(String(before) === String(frame()) ? before : null)))
})"""


@pytest.fixture(autouse=True)
def calm(page):
    page.console_errors.clear()


def landscape(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 100 * x / width, 100 + 100 * y / height, 200 - 80 * x / width], axis=-1).astype(np.uint8)


def upload(page, file) -> None:
    """By Load Image's own button and the browser's file chooser."""
    browser.center_node(page, "LoadImage")  # the frontend may open a template where it was left before
    with page.expect_file_chooser() as chooser:
        if is_vue(page):
            element(page, "LoadImage").locator("label:has(input[type=file])").click()
        else:
            page.mouse.click(*point(page, "LoadImage", 170, 80))
    chooser.value.set_files(file)
    page.wait_for_function(f"name => {CHOSEN} === name", arg=file.name)
    image = f"{node_js('LoadImage')}.imgs?.[0]"
    page.wait_for_function(f"name => {image}?.src.includes(name) && {image}.complete", arg=file.name)


def paint(page, width: int, height: int) -> None:
    """Opens the mask editor, paints the picture's right third in its upper half, and saves."""
    before = page.evaluate(CHOSEN)
    page.mouse.click(*point(page, "LoadImage", 170, 220), button="right")
    page.get_by_text("Open in MaskEditor | Image Canvas").click()
    left, top, across, down = browser.poll_page(page, FITTED, [width, height])
    page.mouse.move(left + 0.7 * across, top + 0.1 * down)
    page.mouse.down()
    for k in range(9):
        page.mouse.move(left + (0.99 if k % 2 else 0.7) * across, top + (0.1 + 0.05 * k) * down, steps=8)
    page.mouse.up()
    page.get_by_role("button", name="Save").click()
    page.wait_for_function(f"before => {CHOSEN} !== before", arg=before)
    page.get_by_test_id("pointer-zone").wait_for(state="hidden")


@pytest.mark.parametrize(
    ("renderer", "width", "height"),
    [("Nodes 2.0", *SIZES[0])]
    + [pytest.param("Nodes 2.0", *size, marks=pytest.mark.soak) for size in SIZES[1:]]
    + [pytest.param("classic", *size, marks=pytest.mark.soak) for size in SIZES],
    indirect=["renderer"],
)
def test_only_what_is_painted_changes(page, server, tmp_path, renderer, width, height):
    """The result has the picture's own size, and is the picture to the last bit wherever nothing was painted."""
    before = landscape(width, height)
    own = tmp_path / f"own_{width}x{height}_{'vue' if is_vue(page) else 'classic'}.png"
    Image.fromarray(before).save(own)
    open_card(page, "vega_inpaint")
    upload(page, own)
    paint(page, width, height)
    page.evaluate("window.app.canvas.deselectAll()")  # or only the selected node is brought into sight
    after = np.asarray(run(page, "SaveImage"))
    name = page.evaluate(CHOSEN).removesuffix(" [input]")
    painted = np.asarray(Image.open(server.base / "input" / name))[..., 3] < 255
    assert 0.03 < painted.mean() < 0.4
    assert painted[: height // 2, 2 * width // 3 :].any() and not painted[:, : width // 2].any()
    assert after.shape == before.shape
    changed = (after != before).any(axis=-1)
    assert not changed[~painted].any()
    assert changed[painted].mean() > 0.5
    assert browser.outlined_nodes(page) == []
    assert page.console_errors == []
