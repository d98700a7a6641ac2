"""The diffusers folders in models/diffusers: all of them for the list, one of them by its name."""

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

INDEX_FILE = "model_index.json"


def list_by_name() -> dict[str, Path]:
    """Every diffusers folder, under the name that a workflow saves: relative, with a trailing slash."""
    folders = {}
    for base in base_folders():
        for folder, files in walk(base):
            if INDEX_FILE in files:
                folders.setdefault(Path(folder).relative_to(base).as_posix() + "/", Path(folder))
    return folders


def find_folder(name: str) -> Path | None:
    """The folder of such a name, found without a walk through all of them; None where there is none."""
    relative = Path(name)
    if relative.anchor or ".." in relative.parts or relative.as_posix() + "/" != name:
        return None  # it may lead out of the model folders, or is written otherwise than in the list
    indexes = (base / relative / INDEX_FILE for base in base_folders())
    return next((index.parent for index in indexes if os.path.lexists(index) and not os.path.isdir(index)), None)


def base_folders() -> list[Path]:
    return [Path(base) for base in folder_paths.get_folder_paths("diffusers")]


def walk(base: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder from base down, and its files; a link is followed unless it leads to a folder that it lies in itself."""
    ancestors = {str(base): (os.path.realpath(base),)}  # of a folder: the real paths of those around it, and its own
    for folder, subfolders, files in os.walk(base, followlinks=True):
        yield folder, files
        real_paths, entered = ancestors.pop(folder), []
        for name in subfolders:
            path = os.path.join(folder, name)
            # Asking for every folder's real path would take longer than the walk; but islink knows no junctions of Windows.
            is_link = os.name == "nt" or os.path.islink(path)
            real = os.path.realpath(path) if is_link else os.path.join(real_paths[-1], name)
            if real not in real_paths:
                ancestors[path] = (*real_paths, real)
                entered.append(name)
        subfolders[:] = entered
