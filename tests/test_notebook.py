"""The notebook in docs/ runs from the first cell to the last, and what it shows is what its cells draw."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image
from psnr import psnr

from dev import walk_through

SHOWN = walk_through.read_notebook()
CODE = [cell for cell in SHOWN.cells if cell.cell_type == "code"]
LABEL, SIDE = 28, 256  # pixels, of the notebook's own rows


@pytest.fixture(scope="module")
def executed_cells(server):
    """The same cells, run now: id -> cell."""
    again = walk_through.read_notebook()
    walk_through.run_notebook(again, server.url)
    return {cell.id: cell for cell in again.cells}


def pictures(cell) -> list[np.ndarray]:
    files = [output.data["image/jpeg"] for output in cell.outputs if "image/jpeg" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(file))), dtype=float) for file in files]


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def columns(cell) -> list[np.ndarray]:
    """What stands side by side in a cell's row, without the labels."""
    (row,) = pictures(cell)
    return np.split(row[LABEL:], row.shape[1] // SIDE, axis=1)


@pytest.mark.parametrize("cell", CODE, ids=lambda cell: cell.id)
def test_a_cell_shows_what_it_draws(cell, executed_cells):
    """Where it no longer does, and should not, dev/walk_through.py writes the notebook anew."""
    again = executed_cells[cell.id]
    assert printed(again) == printed(cell)
    assert [output.output_type for output in again.outputs] == [output.output_type for output in cell.outputs]
    for one, other in zip(pictures(again), pictures(cell), strict=True):
        assert one.shape == other.shape
        assert psnr(one, other) > 28


def test_one_seed_is_one_picture_and_others_are_others(executed_cells):
    one, again = columns(executed_cells["same-seed"])
    assert psnr(one, again) > 40
    assert "True" in printed(executed_cells["same-seed"])
    assert all(psnr(one, other) < 25 for one, other in itertools.combinations(columns(executed_cells["four-seeds"]), 2))


def test_more_steps_come_closer_to_the_finest(executed_cells):
    *fewer, finest = columns(executed_cells["steps"])
    near = [psnr(picture, finest) for picture in fewer]
    assert all(more > less + 0.5 for less, more in itertools.pairwise(near))


def test_more_denoise_keeps_less_of_the_source(executed_cells):
    source, *changed = columns(executed_cells["image-to-image"])
    kept = [psnr(picture, source) for picture in changed]
    assert all(less > more + 1 for less, more in itertools.pairwise(kept))


def test_its_links_lead_to_files():
    text = "\n".join(cell.source for cell in SHOWN.cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (walk_through.NOTEBOOK.parent / link).is_file()] == []


def test_its_file_is_small_and_names_no_machine():
    text = walk_through.NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 600_000
    assert text == walk_through.to_text(walk_through.read_notebook()), "dev/walk_through.py writes it"
    words = "\n".join([cell.source for cell in SHOWN.cells] + [printed(cell) for cell in CODE])
    assert not re.search(r"(?<![\w.~])/[a-z]+/", words), "an absolute path"
