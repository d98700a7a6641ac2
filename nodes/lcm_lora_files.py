"""The files that the names in Apply LCM-LoRA's list stand for; a published LCM-LoRA is also found as a browser saved it."""

from pathlib import Path

import folder_paths

from ..vega import lora, published_loras, recipes
from . import model_lists


def names() -> list[str]:
    """The embedded LCM-LoRA, none, the files in models/loras, and the published ones that are found among these by contents.

    Without the last, ComfyUI's page would report those as missing and offer their download.
    """
    files, contents = model_lists.lora_names(), downloads()
    found = [name for name in published_loras.MODULE_COUNTS if name not in files and len(exact_matches(name, contents)) == 1]
    return [model_lists.EMBEDDED_LORA, recipes.FUSED_LORA, *files, *found]


def path(lora_name: str) -> Path | None:
    """The file of a name in the list, None for a LoRA that is fused in the checkpoint.

    ValueError where there is none, where two fit equally, and where it isn't certain.
    """
    if lora_name == recipes.FUSED_LORA:
        return None
    if lora_name not in published_loras.MODULE_COUNTS or folder_paths.get_full_path("loras", lora_name):
        return model_lists.lora_path(lora_name)
    contents = downloads()
    fitting = exact_matches(lora_name, contents)
    if len(fitting) == 1:
        return model_lists.lora_path(fitting[0])
    missing = f"There is no LoRA {lora_name!r} in models/loras"
    if fitting:
        both = " and ".join(map(repr, fitting))
        raise ValueError(f"{missing}, and these fit it equally: {both}. Choose one of them in lora_name.")
    doubtful = [f"{name!r} may be it, but {of.mismatch}" for name, of in contents.items() if of.name == lora_name]
    if doubtful:
        source = lora.BASES[published_loras.MODULE_COUNTS[lora_name]][1]
        raise ValueError(f"{missing}. {'; '.join(doubtful)}. If it is {source}, choose it in lora_name.")
    return model_lists.lora_path(lora_name)


def exact_matches(lora_name: str, contents: dict[str, published_loras.FileContents]) -> list[str]:
    """The downloads that are this published LCM-LoRA for certain."""
    return [name for name, of in contents.items() if of == (lora_name, "")]


def downloads() -> dict[str, published_loras.FileContents]:
    """The files in models/loras that have the name under which every LCM-LoRA is downloaded, and what each is."""
    files = [name for name in folder_paths.get_filename_list("loras") if published_loras.DEFAULT_FILE_NAME.search(name)]
    paths = {Path(name).as_posix(): folder_paths.get_full_path("loras", name) for name in files}  # None for a dead link
    return {name: published_loras.identify(Path(found)) for name, found in paths.items() if found}
