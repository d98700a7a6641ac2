"""What we draw can be read: by its contrast (WCAG 2.2, 1.4.3) and, in the shipped grids, by the size of its letters."""

import json
from pathlib import Path

import pytest
from contrast import contrast

from bench import chart
from dev import registry_pictures, thumbnails

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
LEAST = 11  # pixels


def test_contrast_is_that_of_wcag():
    assert contrast("white", "black") == pytest.approx(21)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("program", [thumbnails, registry_pictures])
def test_letters_stand_out(program):
    assert contrast(program.INK, program.PAPER) >= 4.5


def test_labels_of_grids():
    """Letters of a share of the picture's height, in white on a dark edge (core's TextOverlay)."""
    grids = 0
    for path in (WORKFLOWS / "api").glob("*.json"):
        inputs = {node["class_type"]: node["inputs"] for node in json.loads(path.read_text(encoding="utf-8")).values()}
        if "TextOverlay" in inputs:
            grids += 1
            assert inputs["TextOverlay"]["font_size"] / 100 * inputs["ImageGrid"]["cell_height"] >= LEAST
    assert grids == 2


def test_colours_of_the_chart_stand_out():
    """WCAG asks for 3 of what is no text."""
    assert all(contrast(colour, "white") >= 3 for colour in (*chart.COLOURS.values(), chart.OTHERS))
