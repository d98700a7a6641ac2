"""Few-step LoRAs that are no LCM-LoRAs although they adapt the same modules: told by what their files are called.

Their tensors cannot tell them apart. What draws each right in ComfyUI's own nodes is what its makers say of it, with the
scheduler `simple` where they say "trailing": it gives those timesteps exactly (999, 749, 499, 249 at four steps).
"""

import re
from pathlib import Path

KSAMPLER = "with Load LoRA (Vega) and ComfyUI's own KSampler set to "
OF_THE_FILE = "the number of steps in the file's name"
DMD2, FLASH = "DMD2", "Flash Diffusion"
# A pattern for its name -> what it is called, and how to draw with it; the first that matches counts.
PUBLISHED = {
    "dmd2?|distribution matching": (DMD2, KSAMPLER + "lcm, simple, 4 steps and cfg 1"),
    "hyper.*cfg": ("Hyper-SD CFG", KSAMPLER + f"ddim, simple, {OF_THE_FILE} and cfg 5 to 8"),
    "hyper.* 1 ?step": ("Hyper-SD for one step", KSAMPLER + "lcm, simple, 1 step and cfg 1"),
    "hyper": ("Hyper-SD", KSAMPLER + f"ddim, simple, {OF_THE_FILE} and cfg 1"),
    "lightning": ("SDXL-Lightning", KSAMPLER + f"euler, sgm_uniform, {OF_THE_FILE} and cfg 1"),
    "tcd|trajectory consistency": ("TCD", "with a node pack that has TCD's own sampler: ComfyUI has none"),
    "tdd|target driven": ("TDD", "with a node pack that has its own sampler: ComfyUI has none"),
    "pcm.*lcm ?like|phased consistency.*lcm ?like": ("PCM (LCM-like)", KSAMPLER + "lcm, simple, 4 steps and cfg 1"),
    "pcm.*normal ?cfg": ("PCM (normal CFG)", KSAMPLER + f"ddim, simple, {OF_THE_FILE} and cfg 7.5"),
    "pcm|phased consistency": ("PCM", KSAMPLER + f"ddim, simple, {OF_THE_FILE} and cfg 1"),
    "flash": (FLASH, KSAMPLER + "lcm, simple, 4 steps and cfg 1"),
    "turbo": ("a Turbo-LoRA", KSAMPLER + "euler_ancestral, simple, 4 steps or more and cfg 1"),
}
LCM = "lcm|latent consistency"
# Names that say nothing: files that their publishers all call the same, with the number of a browser's copy, and folders of
# a base, of steps, of a hub's cache.
MEANINGLESS_NAME = re.compile(
    r"(pytorch lora weights|adapter model|model|lora|weights|sdxl|sd ?v?1[ .]?5|\d+ ?steps?|fp16|fp32|\(\d+\)|\d|snapshots"
    r"|[0-9a-f]{40}| )+"
)
MODEL_FOLDERS = ("loras", "lora", "models")  # folders of everybody's files
# Where a file's metadata has its own name; what else is there may tell of its base, its pictures or others' work.
TITLE_KEYS = ("ss_output_name", "modelspec.title", "modelspec.description", "name", "title", "description")


def identify(path: Path, metadata: dict[str, str]) -> tuple[str, str, str] | None:
    """(what the file's name or its metadata say that it is, how to draw with it, what said so); None if nothing does.

    A file whose name says LCM is an LCM-LoRA whatever else it says, except DMD2's, which are drawn with that sampler, and
    PCM's LCM-like ones.
    """
    name = file_title(path)
    if published := match_published(name):
        if not says_lcm(name) or published[0] in (DMD2, PUBLISHED["pcm.*lcm ?like|phased consistency.*lcm ?like"][0]):
            return *published, f"its name, {name!r}"
        return None
    for key, value in metadata.items():
        if key in TITLE_KEYS and not says_lcm(f"{name} {value}") and (published := match_published(value)):
            return *published, f"{key} in its metadata, {value[:80]!r}"
    return None


def file_title(path: Path) -> str:
    """The file's name without its ending, or that of the folder it lies in, where the file's says nothing."""
    folders = [folder.name for folder in path.parents]
    home = next((k for k, name in enumerate(folders) if name.lower() in MODEL_FOLDERS), 1)
    for name in (path.stem, *folders[:home]):
        if not MEANINGLESS_NAME.fullmatch(words(name).strip()):
            return name
    return path.stem


def match_published(text: str) -> tuple[str, str] | None:
    return next((published for pattern, published in PUBLISHED.items() if has_word(pattern, text)), None)


def says_lcm(text: str) -> bool:
    return has_word(LCM, text)


def has_word(pattern: str, text: str) -> bool:
    """Whether a text has a word of the pattern."""
    return bool(re.search(rf"(?<![a-z])({pattern})(?![a-z])", words(text)))


def words(text: str) -> str:
    """A name in small letters and words: camel case and underscores part them, and so do the names of bases."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"([A-Z]{2,})(?=[A-Z][a-z])", r"\1 ", text)
    text = re.sub(r"[-_.,:;/+]+", " ", text.lower())
    return re.sub(r"\s*(sdxl|sd ?v?[123][ .]?5?|sd(?![a-z])|xl(?![a-z])|lora|(?<=[a-z])v\d)\s*", r" \1 ", text)
