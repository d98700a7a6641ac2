"""Live Image where the server asks for a key: what an artist is told, and that Enter goes on."""

import pytest
from live_page import LIVE, STATUS, load, wait_for_frame

from dev import comfyui

KEY = "ein-schlüssel"


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
    page.keyboard.type("no key")  # the box has the focus
    page.keyboard.press("Enter")
    status.get_by_text("The server does not know this API key").wait_for()
    key.fill(KEY)
    key.press("Enter")
    wait_for_frame(page, 1)
    assert (key.is_visible(), status.inner_text()) == (False, "")
    page.locator(LIVE).click()
