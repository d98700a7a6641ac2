"""What we draw can be read: by its contrast (WCAG 2.2, 1.4.3) and, in the shipped grids, by the size of its letters."""

import json
from pathlib import Path

import pytest
from contrast import contrast

from bench import chart
from dev import help_pictures, registry_pictures, thumbnails

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
MIN_LETTER_PIXELS, MIN_TEXT_CONTRAST, MIN_GRAPHICS_CONTRAST = 11, 4.5, 3  # WCAG asks for less of what is no text


def test_contrast_is_that_of_wcag():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("script", [thumbnails, registry_pictures])
def test_text_stands_out(script):
    assert contrast(script.TEXT_COLOUR, script.BACKGROUND_COLOUR) >= MIN_TEXT_CONTRAST


def test_lines_and_bars_stand_out():
    assert all(
        contrast(colour, "white") >= MIN_GRAPHICS_CONTRAST for colour in (*chart.COLOURS.values(), chart.OTHER_COLOUR)
    )


def test_letters_are_large_enough():
    sizes = (
        thumbnails.TITLE_PIXELS,
        thumbnails.SMALL_PIXELS,
        registry_pictures.NAME_PIXELS,
        registry_pictures.SLOGAN_PIXELS,
    )
    assert min(*sizes, help_pictures.LETTER_PIXELS, chart.FONT_PT / 72 * chart.DPI) >= MIN_LETTER_PIXELS


def test_labels_of_grids():
    """Letters of a share of the picture's height, in white on a dark edge (core's TextOverlay)."""
    grids = 0
    for path in (WORKFLOWS / "api").glob("*.json"):
        inputs = {node["class_type"]: node["inputs"] for node in json.loads(path.read_text(encoding="utf-8")).values()}
        if "TextOverlay" in inputs:
            grids += 1
            assert inputs["TextOverlay"]["font_size"] / 100 * inputs["ImageGrid"]["cell_height"] >= MIN_LETTER_PIXELS
    assert grids == 2
