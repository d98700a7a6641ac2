"""ComfyUI's page beside an LCM-LoRA that lies in models/loras as a browser saved it."""

import distilled_loras
import pytest
from page_graphs import refresh
from test_browser_templates import open_card

DOWNLOADED = "loras/pytorch_lora_weights (1).safetensors"


@pytest.fixture
def content(tmp_path) -> bytes:
    return distilled_loras.kohya(tmp_path / "lora.safetensors", "Segmind-Vega").read_bytes()


def test_the_page_misses_no_lora_that_is_found(page, place, content):
    """Of the template's two files it offers the other one alone."""
    place(DOWNLOADED, content)
    refresh(page)
    open_card(page, "vega_txt2img_1024")
    page.get_by_test_id("error-overlay-see-errors").click()
    assert page.get_by_text("segmind-vega.safetensors", exact=True).count()
    assert page.get_by_test_id("missing-model-download").count() == 1
    page.keyboard.press("Escape")
