"""The pictures that the templates begin with, in ComfyUI's input folder: where Load Image looks, and packs have no place."""

import logging
import shutil
from pathlib import Path

import folder_paths

EXAMPLES_DIR = Path(__file__).resolve().parents[1] / "input"


def copy_examples() -> None:
    """Copies those that are not there yet; a file of that name is the user's and stays."""
    folder = Path(folder_paths.get_input_directory())
    try:
        for example in (path for path in EXAMPLES_DIR.rglob("*") if path.is_file()):
            copy = folder / example.relative_to(EXAMPLES_DIR)
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(example, copy)
    except OSError as error:
        logging.warning(
            "Vega: %s can't be written (%s): the templates' example pictures are not in it.", folder, error.strerror
        )
