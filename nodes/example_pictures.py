"""The pictures that the templates begin with, in ComfyUI's input folder: where Load Image looks, and packs have no place."""

import logging
import shutil
from pathlib import Path

import folder_paths

EXAMPLES = Path(__file__).resolve().parents[1] / "input"


def place() -> None:
    """Copies those that are not there yet; a file of that name is the user's and stays."""
    folder = Path(folder_paths.get_input_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for example in EXAMPLES.iterdir():
            if not (folder / example.name).exists():
                shutil.copyfile(example, folder / example.name)
    except OSError as error:
        logging.warning(
            "Vega: %s can't be written (%s): the templates' example pictures are not in it.", folder, error.strerror
        )
