"""Where training reads and writes: pictures in folders of ComfyUI's input folder, runs and caches in a folder of its own."""

import os
from pathlib import Path

import folder_paths

from . import diffusers_folders


def names() -> list[str]:
    """All folders in the input folder and in these, with / on every system."""
    base = input_folder()
    return sorted(
        Path(folder).relative_to(base).as_posix() for folder, _ in diffusers_folders.walk(base) if Path(folder) != base
    )


def path(name: str) -> Path:
    """The folder of a name in the list; ValueError where there is none."""
    relative = Path(name)
    inside = not relative.anchor and ".." not in relative.parts and relative.as_posix() == name != "."
    if not inside or not (input_folder() / relative).is_dir():
        raise ValueError(
            f"There is no folder {name!r} in ComfyUI's input folder. Put it there, or press R and choose another."
        )
    return input_folder() / relative


def content(folder: Path) -> list[tuple[str, int, int]]:
    """(name, bytes, time of the last change) of each file in it and in its folders."""
    found = []
    for parent, files in diffusers_folders.walk(folder):
        for file in (Path(parent) / name for name in files if os.path.exists(os.path.join(parent, name))):
            stat = file.stat()
            found.append((file.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns))
    return sorted(found)


def input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def work() -> Path:
    """In the host's folder for users: temp is emptied at each start, and what is in output the page shows as pictures."""
    return Path(folder_paths.get_system_user_directory("vega")) / "training"


def write_prompts(name: str, prompts: str) -> Path:
    """The file of prompts that the run of this name learns from."""
    file = work() / f"{name}.prompts.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(prompts, encoding="utf-8")
    return file


def output() -> Path:
    """The first of the host's folders of LoRAs."""
    return Path(folder_paths.get_folder_paths("loras")[0])
