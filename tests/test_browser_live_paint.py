"""Painting on Live Image in ComfyUI's page, by mouse, pen, touch and keyboard."""

import pytest
from live_page import CANVAS, LIVE, box_middle, colour, load, pixel, wait_for_frame

from dev import browser
from dev.browser import node_js

pytestmark = pytest.mark.usefixtures("nothing_live")


def test_a_tap_is_sent_once(page):
    """Lifting the brush changes no pixel: no second frame goes, for whose picture the next stroke would wait."""
    load(page, "vega_live_paint")
    page.evaluate(
        """() => {
            const send = WebSocket.prototype.send
            window.frames_sent = 0
            WebSocket.prototype.send = function (data) {
                if (typeof data !== 'string') window.frames_sent += 1
                return send.call(this, data)
            }
        }"""
    )
    page.locator(LIVE).click()
    wait_for_frame(page, 1)
    first = page.evaluate("window.frames_sent")
    for k in (1, 2, 3):
        page.locator(CANVAS).click(position={"x": 40 * k, "y": 40})
        wait_for_frame(page, first + k)
        page.wait_for_timeout(200)  # some looks of the loop, which is idle then
        assert page.evaluate("window.frames_sent") == first + k


def test_run_draws_the_painting_once(page):
    """Without live, Run draws what is painted, as a picture inside the prompt."""
    load(page, "vega_live_paint")
    assert browser.run_workflow(page) == "execution_success"
    assert browser.shown_image(page, "VegaSendImage").size == (192, 192)


def test_it_is_painted_by_keyboard(page):
    """Space and arrows paint, Ctrl+Z takes back, Delete clears, and the node stays."""
    load(page, "vega_live_paint")
    colour(page, "#0000ff")
    page.locator(".vega-live button", has_text="Clear").click()
    assert pixel(page, 0.5, 0.5) == [255, 255, 255]
    page.locator(".vega-live button", has_text="Clear").press("Shift+Tab")
    while page.evaluate("document.activeElement.tagName") != "CANVAS":
        page.keyboard.press("Tab")
    mark = page.locator(".vega-live .brush")
    middle = box_middle(page.locator(CANVAS))
    assert box_middle(mark) == pytest.approx(middle, abs=1), "the lifted brush is seen, too"
    page.keyboard.press("ArrowDown")
    assert box_middle(mark)[1] > middle[1] + 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert pixel(page, 0.5, 0.5) == pixel(page, 0.55, 0.5) == [0, 0, 255]
    page.keyboard.press("Control+z")
    assert pixel(page, 0.5, 0.5) == [255, 255, 255]
    page.keyboard.press("Control+z")
    assert pixel(page, 0.5, 0.5) != [255, 255, 255]
    page.keyboard.press("Delete")
    assert pixel(page, 0.5, 0.5) == [255, 255, 255]
    assert page.evaluate(f"!!{node_js('VegaLiveImage')}")
    names = (
        page.locator(".vega-live")
        .locator("button, select, input, canvas, a")
        .evaluate_all("found => found.map(e => e.getAttribute('aria-label') || e.textContent)")
    )
    assert all(names)


def test_a_palm_beside_the_pen_paints_nothing(page):
    load(page, "vega_live_paint")
    colour(page, "#ff00ff")
    page.locator(".vega-live button", has_text="Clear").click()
    x, y = box_middle(page.locator(CANVAS))
    page.mouse.move(x, y)
    page.mouse.down()
    for event in ("pointerdown", "pointermove", "pointerup"):
        page.locator(CANVAS).dispatch_event(event, {"pointerId": 99, "button": 0, "clientX": x, "clientY": y + 80})
    page.mouse.move(x + 80, y, steps=4)
    page.mouse.up()
    side = page.locator(CANVAS).bounding_box()["width"]
    assert pixel(page, 0.5 + 70 / side, 0.5) == [255, 0, 255]
    assert pixel(page, 0.5, 0.5 + 70 / side) == [255, 255, 255]


@pytest.mark.parametrize("renderer", [pytest.param("classic", marks=pytest.mark.soak), "Nodes 2.0"], indirect=True)
def test_the_side_panel_leaves_the_painting_its_width(page, renderer):
    load(page, "vega_live_paint")
    width = page.locator(CANVAS).bounding_box()["width"]
    page.evaluate(f"window.app.canvas.selectNode({node_js('VegaLiveImage')})")
    page.get_by_role("button", name="Toggle properties panel").click()
    panel = page.get_by_test_id("properties-panel")
    try:
        panel.get_by_text("threshold", exact=True).first.wait_for()
        for _ in range(5):  # frames of the graph, as while one paints
            page.evaluate("window.app.canvas.setDirty(true, true)")
            page.wait_for_timeout(100)
        assert page.locator(CANVAS).bounding_box()["width"] == pytest.approx(width, abs=1)
    finally:
        panel.get_by_role("button", name="Toggle properties panel").click()


def test_it_is_painted_by_touch(page):
    load(page, "vega_live_paint")
    colour(page, "#ff00ff")
    box = page.locator(CANVAS).bounding_box()
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    view = page.evaluate("[...window.app.canvas.ds.offset]")
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [middle]})
    moved = {"x": middle["x"] + 30, "y": middle["y"]}
    session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [moved]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert pixel(page, 0.5, 0.5) == [255, 0, 255]
    assert page.evaluate("[...window.app.canvas.ds.offset]") == view, "the graph does not move along"
