"""The names in the nodes' lists of models and LoRAs, as workflows save them, and the paths that they stand for."""

from collections.abc import Callable
from pathlib import Path

import folder_paths

from ..vega import checkpoint
from . import diffusers_folders

EMBEDDED_MODEL = "vega-nano (embedded)"
EMBEDDED_LORA = "vega-nano LCM-LoRA (embedded)"


def model_names() -> list[str]:
    """Everything that Load Vega loads: the embedded model, diffusers folders with a trailing slash, checkpoint files."""
    return [EMBEDDED_MODEL, *sorted(diffusers_folders.list_by_name()), *file_names("checkpoints")]


def lora_names() -> list[str]:
    """The files in models/loras."""
    return file_names("loras")


def file_names(folder_name: str) -> list[str]:
    """The files in a kind of the host's model folders, with / on every system."""
    return [Path(name).as_posix() for name in folder_paths.get_filename_list(folder_name)]


def model_path(model_name: str) -> Path:
    """The folder or file of a name in the list; ValueError where it is no longer there."""
    if model_name == EMBEDDED_MODEL:
        return checkpoint.NANO_DIR
    if model_name.endswith("/"):
        path = diffusers_folders.find_folder(model_name)
    else:
        path = folder_paths.get_full_path("checkpoints", model_name)
    if path is None:
        where = "models/diffusers" if model_name.endswith("/") else "models/checkpoints"
        raise ValueError(f"There is no model {model_name!r} in {where}. Put it there, or press R and choose another.")
    return Path(path)


def lora_path(lora_name: str) -> Path:
    """The file of a name in the list; ValueError where it is no longer there."""
    if lora_name == EMBEDDED_LORA:
        return checkpoint.NANO_LORA
    path = folder_paths.get_full_path("loras", lora_name)
    if path is None:
        raise ValueError(f"There is no LoRA {lora_name!r} in models/loras. Put it there, or press R and choose another.")
    return Path(path)


def vae_approx_files() -> dict[str, Path]:
    """The files in models/vae_approx by name, without links that lead nowhere, which the host lists too."""
    names = folder_paths.get_filename_list("vae_approx")
    return {name: Path(path) for name in names if (path := folder_paths.get_full_path("vae_approx", name))}


def embedding_folders() -> list[str]:
    return folder_paths.get_folder_paths("embeddings")


def validate(to_path: Callable[[str], Path], name: str | None) -> bool | str:
    """For validate_inputs: True, or why the name stands for nothing; a name that comes over a link is None yet."""
    if name is not None and not isinstance(name, str):
        return f"{name!r} is no name. Choose one from the list."
    try:
        if name is not None:
            to_path(name)
        return True
    except ValueError as error:
        return str(error)
