"""Encoded images as files in the host's temp folder, where Preview Image has its own."""

import asyncio
import logging
import secrets
from pathlib import Path

import folder_paths

from . import store
from .encode import EncodedImage


def write(image: EncodedImage) -> dict:
    """Writes the file, which stays until ComfyUI ends: its name in /view and /history. OSError where the disk takes none."""
    folder, name = Path(folder_paths.get_temp_directory()), f"vega_{secrets.token_hex(8)}.{image.format}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / name).write_bytes(image.data)
    except OSError:  # as where the disk is full: a part of it would stay
        (folder / name).unlink(missing_ok=True)
        raise
    return {"filename": name, "subfolder": "", "type": "temp"}


def write_expiring(loop: asyncio.AbstractEventLoop, images: list[EncodedImage]) -> list[dict]:
    """As write(), and deletes the files when those in memory end. A disk that takes none is logged, and no failure."""
    entries, folder = [], Path(folder_paths.get_temp_directory())
    for image in images:
        try:
            entries.append(write(image))
        except OSError as error:
            why = f"{folder} can't be written ({error.strerror})"
            logging.warning("Send Image (Vega): %s, so /history names only the pictures in memory.", why)
            break
    paths = [folder / entry["filename"] for entry in entries]
    loop.call_soon_threadsafe(loop.call_later, store.MAX_AGE_SECONDS, delete, paths)
    return entries


def delete(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)  # the folder may have been emptied
        except OSError as error:
            logging.warning("Send Image (Vega): %s stays until ComfyUI ends (%s).", path, error.strerror)
