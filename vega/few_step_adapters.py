"""What kind of few-step adapter a LoRA file is, and the recipe that draws it: LCM's, or another's.

Their tensors cannot tell them apart: the same modules, shapes and ranks. Told by the contents of a published file, by the
metadata, or by what the file is called.
"""

import re
from pathlib import Path
from typing import NamedTuple

from . import published_files, recipes

# A pattern for its name -> the recipe that draws it; the first that matches counts.
RECIPE_PATTERNS = {
    "dmd2?|distribution matching": recipes.DMD2,
    r"hyper.*(?<!no)(?<!no )cfg": recipes.HYPER_CFG,
    "hyper.* 1 ?steps?": recipes.HYPER_ONE_STEP,
    "hyper": recipes.HYPER,
    "lightning": recipes.LIGHTNING,
    "tcd|trajectory consistency": recipes.TCD,
    "pcm.*lcm ?like|phased consistency.*lcm ?like": recipes.LCM,
    "pcm.*normal ?cfg|phased consistency.*normal ?cfg": recipes.PCM_NORMAL_CFG,
    "pcm|phased consistency": recipes.PCM,
    "flash (sdxl|sd|diffusion)": recipes.FLASH,
}
# Those whose makers give no recipe that this pack has -> what they are called, and what draws with them.
NO_RECIPE_PATTERNS = {
    "flash": ("a Flash LoRA", "as its makers say, or set recipe to Flash Diffusion if it is theirs"),
    "tdd|target driven": ("TDD", "with a node pack that has its own sampler: ComfyUI has none"),
    "turbo": (
        "a Turbo-LoRA",
        "with Load LoRA (Vega) and ComfyUI's own KSampler set to euler_ancestral, simple, 4 steps or more and cfg 1",
    ),
}
LCM_PATTERN = "lcm|latent consistency"
# Names that say nothing: files that their publishers all call the same, with the number of a browser's copy, and folders of
# a base, of steps, of a hub's cache.
MEANINGLESS_NAME = re.compile(
    r"(pytorch lora weights|adapter model|model|lora|weights|sdxl|sd ?v?1[ .]?5|\d+ ?steps?|fp16|fp32|\(\d+\)|\d|snapshots"
    r"|[0-9a-f]{40}| )+"
)
MODEL_FOLDERS = ("loras", "lora", "models")  # folders of everybody's files
# Where a file's metadata has its own name; what else is there may tell of its base, its pictures or others' work.
TITLE_KEYS = ("ss_output_name", "modelspec.title", "modelspec.description", "name", "title", "description")


class RecipeChoice(NamedTuple):
    """What a file is drawn as, and what told."""

    name: str
    recipe: recipes.Recipe | None  # none: it can't be drawn here
    evidence: str  # "digest", "metadata", "name", "user" or "" for nothing
    source: str  # in words, with what told
    alternative: str = ""  # without a recipe: what draws with it


def choose(path: Path, metadata: dict[str, str], name: str = recipes.AUTO) -> RecipeChoice:
    """The recipe of this name, or for "auto" the one that the file tells; LCM's where nothing tells.

    A published file is known by its contents, whatever its name says. ValueError for a name that no recipe has.
    """
    if name != recipes.AUTO:
        return RecipeChoice(name, for_steps(recipes.by_name(name), path), "user", "the user")
    if recipe := published_files.recipe_of(path):
        return RecipeChoice(recipe.name, recipe, "digest", "its contents, which are those of the published file")
    if found := identify(path, metadata):
        return found
    title = file_title(path)
    if says_lcm(title):
        return RecipeChoice(recipes.LCM.name, recipes.LCM, "name", f"its name, {title!r}")
    return RecipeChoice(recipes.LCM.name, recipes.LCM, "", "the default, because nothing in the file tells")


def identify(path: Path, metadata: dict[str, str]) -> RecipeChoice | None:
    """What the file's metadata or else its name say that it is, if that is something else than an LCM-LoRA.

    A file whose name says LCM is an LCM-LoRA whatever else it says, except DMD2's, which are drawn with that sampler, and
    PCM's LCM-like ones.
    """
    title = file_title(path)
    for key, value in metadata.items():
        tells = key in TITLE_KEYS and not says_lcm(f"{title} {value}")
        if tells and (found := match(value, path, "metadata", f"{key} in its metadata, {value[:80]!r}")):
            return found
    found = match(title, path, "name", f"its name, {title!r}")
    if found and says_lcm(title) and found.name not in (recipes.DMD2.name, recipes.LCM.name):
        return None
    return found


def match(text: str, path: Path, evidence: str, source: str) -> RecipeChoice | None:
    """What a text says that the file is; the first pattern that matches counts."""
    for pattern, (name, alternative) in NO_RECIPE_PATTERNS.items():
        if has_word(pattern, text) and not any(has_word(of_recipe, text) for of_recipe in RECIPE_PATTERNS):
            return RecipeChoice(name, None, evidence, source, alternative)
    recipe = next((recipe for pattern, recipe in RECIPE_PATTERNS.items() if has_word(pattern, text)), None)
    return recipe and RecipeChoice(recipe.name, for_steps(recipe, path, text), evidence, source)


def for_steps(recipe: recipes.Recipe, *names: Path | str) -> recipes.Recipe:
    """The recipe for the number of steps alone that a file's name or the text has, if it is one that the recipe is for."""
    if not isinstance(recipe.steps, tuple):
        return recipe  # it is for every number in a range
    texts = [part for name in names for part in (name.parts[-3:] if isinstance(name, Path) else [name])]
    found = [int(number) for text in texts for number in re.findall(r"(?<!\d)(\d+) ?steps?(?![a-z])", normalize_name(text))]
    return next((recipe._replace(steps=(number,)) for number in reversed(found) if number in recipe.steps), recipe)


def file_title(path: Path) -> str:
    """The file's name without its ending, or that of the folder it lies in, where the file's says nothing."""
    folders = [folder.name for folder in path.parents]
    home = next((k for k, name in enumerate(folders) if name.lower() in MODEL_FOLDERS), 1)
    for name in (path.stem, *folders[:home]):
        if not MEANINGLESS_NAME.fullmatch(normalize_name(name).strip()):
            return name
    return path.stem


def says_lcm(text: str) -> bool:
    return has_word(LCM_PATTERN, text)


def has_word(pattern: str, text: str) -> bool:
    """Whether a text has a word of the pattern."""
    return bool(re.search(rf"(?<![a-z])({pattern})(?![a-z])", normalize_name(text)))


def normalize_name(text: str) -> str:
    """A name in small letters and words: camel case and underscores part them, and so do the names of bases."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"([A-Z]{2,})(?=[A-Z][a-z])", r"\1 ", text)
    text = re.sub(r"[-_.,:;/+]+", " ", text.lower())
    return re.sub(r"\s*(sdxl|sd ?v?[123][ .]?5?|sd(?![a-z])|xl(?![a-z])|lora|(?<=[a-z])v\d)\s*", r" \1 ", text)
