"""What we draw can be read: letters of 11 pixels at least, in a contrast of 4.5 at least (WCAG 2.2, 1.4.3)."""

import json
from pathlib import Path

import pytest
from contrast import contrast

from bench import chart
from dev import help_pictures, registry_pictures, thumbnails

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
LEAST = 11


def test_contrast_is_that_of_wcag():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)


def test_thumbnails():
    assert contrast(thumbnails.INK, thumbnails.PAPER) >= 4.5
    assert min(thumbnails.TITLE, thumbnails.SMALL) >= LEAST


def test_the_banner():
    assert contrast(registry_pictures.INK, registry_pictures.PAPER) >= 4.5
    assert min(registry_pictures.NAME_SIZE, registry_pictures.SAYS_SIZE) >= LEAST


def test_help_pictures():
    assert help_pictures.LETTERS >= LEAST


def test_labels_of_grids():
    """Letters of a share of the picture's height, in white on a dark edge (core's TextOverlay)."""
    grids = 0
    for path in (WORKFLOWS / "api").glob("*.json"):
        inputs = {node["class_type"]: node["inputs"] for node in json.loads(path.read_text(encoding="utf-8")).values()}
        if "TextOverlay" in inputs:
            grids += 1
            assert inputs["TextOverlay"]["font_size"] / 100 * inputs["ImageGrid"]["cell_height"] >= LEAST
    assert grids == 2


def test_the_chart():
    """WCAG asks for 3 of what is no text."""
    assert all(contrast(colour, "white") >= 3 for colour in (*chart.COLOURS.values(), chart.OTHERS))
    assert chart.LETTERS / 72 * chart.DPI >= LEAST
