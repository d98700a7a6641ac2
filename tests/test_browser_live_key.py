"""Live Image where the server asks for a key: what an artist is told, and that Enter goes on."""

import pytest
from live_page import CANVAS, LIVE, STATUS, frame, load, wait_for_frame

from dev import browser, comfyui

KEY = "ein-schlüssel-100%"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with comfyui.serve(tmp_path_factory.mktemp("guarded"), VEGA_API_KEYS=KEY) as running:
        yield running


def test_the_key_is_asked_for(page):
    load(page, "vega_live_paint")
    key, status = page.get_by_label("API key", exact=True), page.locator(STATUS)
    assert not key.is_visible()
    page.locator(LIVE).click()
    status.get_by_text("This server asks for an API key").wait_for()
    page.keyboard.insert_text("ключ")  # the box has the focus
    page.keyboard.press("Enter")
    status.get_by_text("The server does not know this API key").wait_for()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(f" {KEY} ")
    page.keyboard.press("Enter")
    wait_for_frame(page, 1)
    assert (key.is_visible(), status.inner_text()) == (False, "")
    assert page.evaluate(f"document.activeElement === document.querySelector('{LIVE}')")


def test_a_lost_connection_comes_back_with_the_key(page, server):
    """The page asks why it was lost, with a key that isn't ASCII."""
    page.evaluate(
        """() => {
            const send = WebSocket.prototype.send
            WebSocket.prototype.send = function (data) {
                window.live_socket = this
                return send.call(this, data)
            }
        }"""
    )
    number = frame(page)
    page.locator(CANVAS).click(position={"x": 40, "y": 40})
    wait_for_frame(page, number + 1)
    page.evaluate("window.live_socket.close()")
    page.locator(STATUS, has_text="connection is lost").wait_for()
    page.locator(STATUS, has_text="connection is lost").wait_for(state="detached")
    browser.poll_page(page, f"() => !document.querySelector('{STATUS}').textContent")  # a picture has come
    assert page.locator(LIVE).get_attribute("data-is-on") == "true"


def test_the_full_screen_page_takes_it_too(page, server):
    link = page.locator(".vega-live a").get_attribute("href")
    with page.context.new_page() as other:
        other.goto(link)
        other.get_by_text("A key goes into the address here, after a comma.").wait_for()
        other.goto("about:blank")
        other.goto(f"{link},{KEY}")
        other.wait_for_load_state("networkidle")
        page.locator(CANVAS).click(position={"x": 80, "y": 40})  # which is drawn, and shown there
        other.wait_for_function("document.querySelector('p').textContent === '' && document.querySelector('img').src")
    page.locator(LIVE).click()
