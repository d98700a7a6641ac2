"""Few-step LoRAs that are no LCM-LoRAs although they adapt the same modules: told by what their files are called.

Their tensors cannot tell them apart. What draws each right in ComfyUI's own nodes is what its makers say of it, with the
scheduler `simple` where they say "trailing": it gives those timesteps exactly (999, 749, 499, 249 at four steps).
"""

import re
from pathlib import Path

KSAMPLER = "with Load LoRA (Vega) and ComfyUI's own KSampler set to "
# A pattern for its name -> what it is called, and how to draw with it; the first that matches counts.
PUBLISHED = {
    "dmd2?": ("DMD2", KSAMPLER + "lcm, simple, 4 steps and cfg 1"),
    "hyper.*cfg": ("Hyper-SD CFG", KSAMPLER + "ddim, simple, the file's number of steps and cfg 5 to 8"),
    "hyper": (
        "Hyper-SD",
        KSAMPLER + "ddim, simple, the file's number of steps and cfg 1 (its unified one-step LoRA: lcm in place of ddim)",
    ),
    "lightning": ("SDXL-Lightning", KSAMPLER + "euler, sgm_uniform, the file's number of steps and cfg 1"),
    "tcd": ("TCD", "with a node pack that has TCD's own sampler: ComfyUI has none"),
    "pcm": ("PCM", KSAMPLER + "ddim, simple, the file's number of steps and cfg 1"),
    "flash": ("Flash Diffusion", KSAMPLER + "lcm, simple, 4 steps and cfg 1"),
    "turbo": ("a Turbo-LoRA", KSAMPLER + "euler_ancestral, simple, 4 steps or more and cfg 1"),
}
LCM = "lcm"
# Files that their publishers all call the same; the folder says whose they are.
UNNAMED = ("pytorch_lora_weights", "adapter_model", "model")
# What tells about the base that an adapter was made for, and not about itself.
OF_THE_BASE = re.compile(r"base|sd_model|vae|dataset|tag_|resolution", re.IGNORECASE)
LONGEST = 500  # characters of a title or a description; tables of tags are longer


def told(path: Path, metadata: dict[str, str]) -> tuple[str, str, str] | None:
    """(what the file's name or its metadata say that it is, how to draw with it, what said so); None if nothing does.

    A file whose name says LCM is an LCM-LoRA whatever else it says, but for DMD2's, which are drawn with that sampler.
    """
    name = path.parent.name if path.stem in UNNAMED else path.stem
    said = {f"its name, {name!r}": name}
    for key, value in metadata.items():
        if len(value) <= LONGEST and not OF_THE_BASE.search(key):
            said[f"{key} in its metadata, {value!r}"] = value
    for source, text in said.items():
        for pattern, (called, recipe) in PUBLISHED.items():
            if is_in(pattern, text) and (called == "DMD2" or not is_in(LCM, name)):
                return called, recipe, source
    return None


def is_in(pattern: str, text: str) -> bool:
    """Whether a text has a word of the pattern; digits, underscores and the name of a base end a word."""
    text = re.sub(r"sdxl|sd(?![a-z])|xl(?![a-z])", " ", text, flags=re.IGNORECASE)
    return bool(re.search(rf"(?<![a-z])({pattern})(?![a-z])", text, re.IGNORECASE))
