"""How each kind of few-step adapter is drawn: one row a kind, as its makers publish it for diffusers.

A row travels with the MODEL, in its model sampling (model_sampling.py), and the sampler (lcm.py) draws by it.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from . import step_functions, timestep_grids

AUTO = "auto"
FUSED_LORA = "none (fused in the checkpoint)"  # in place of a LoRA's name
UNSET_CFG = 1.0
ANY_STEPS = range(1, timestep_grids.MAX_STEPS + 1)
NON_COMMERCIAL = "CC BY-NC 4.0"


class Guidance(NamedTuple):
    """The guidance scales (cfg) that the makers give. 1 is none."""

    min: float
    max: float
    default: float  # what an unset cfg is


NO_GUIDANCE = Guidance(1, 1, 1)


class Recipe(NamedTuple):
    name: str  # in the node's list, and in sentences
    timesteps: Callable[[int, float], list[int]]  # of timestep_grids
    step_function: step_functions.StepFunction
    steps: Collection[int]  # that it was made for; a file may be for one of them alone
    source: str
    guidance: Guidance = NO_GUIDANCE
    eta: float | None = None  # TCD's share of new noise
    is_for_sdxl: bool = False  # published for no other family
    is_attention_only: bool = False  # its LoRA leaves out residual blocks and feed-forward layers
    licence: str = ""  # of the files, where it is a non-commercial one


LCM = Recipe(
    "LCM",
    timestep_grids.lcm,
    step_functions.lcm,
    ANY_STEPS,
    "latent-consistency/lcm-lora-sdxl; guidance: huggingface.co/blog/lcm_lora",
    Guidance(1, 2, 1),
)
DMD2 = Recipe(
    "DMD2",
    timestep_grids.trailing,  # its makers' timesteps [999, 749, 499, 249], and those of other numbers of steps likewise
    step_functions.lcm,
    (4,),
    "tianweiy/DMD2",
    is_for_sdxl=True,
    licence=NON_COMMERCIAL,
)
TCD = Recipe("TCD", timestep_grids.lcm, step_functions.tcd, ANY_STEPS, "h1t/TCD-SDXL-LoRA", eta=0.3)
HYPER = Recipe("Hyper-SD", timestep_grids.trailing, step_functions.ddim, (2, 4, 8), "ByteDance/Hyper-SD")
HYPER_ONE_STEP = Recipe(
    "Hyper-SD 1-step",
    timestep_grids.lcm,
    step_functions.tcd,
    range(1, 9),
    "ByteDance/Hyper-SD, 1-step unified LoRA",
    eta=1.0,
)
HYPER_CFG = HYPER._replace(name="Hyper-SD CFG", steps=(8, 12), guidance=Guidance(5, 8, 5))
LIGHTNING = Recipe(
    "SDXL-Lightning",
    timestep_grids.trailing,
    step_functions.euler,
    (2, 4, 8),
    "ByteDance/SDXL-Lightning",
    is_for_sdxl=True,
)
PCM = Recipe(
    "PCM", timestep_grids.trailing, step_functions.ddim, (2, 4, 8, 16), "wangfuyun/PCM_Weights, SmallCFG", Guidance(1, 2, 1)
)
PCM_NORMAL_CFG = PCM._replace(
    name="PCM normal CFG", steps=(4, 8, 16), source="wangfuyun/PCM_Weights, NormalCFG", guidance=Guidance(2, 9, 3)
)
FLASH = Recipe(
    "Flash Diffusion",
    timestep_grids.lcm,  # its makers say "trailing", which LCMScheduler does not read
    step_functions.lcm,
    (4,),
    "jasperai/flash-sdxl",
    is_attention_only=True,
    licence=NON_COMMERCIAL,
)
BY_NAME = {
    recipe.name: recipe
    for recipe in (LCM, DMD2, HYPER, HYPER_CFG, HYPER_ONE_STEP, LIGHTNING, TCD, PCM, PCM_NORMAL_CFG, FLASH)
}


def by_name(name: str) -> Recipe:
    """The recipe that is called so; ValueError where there is none."""
    if name not in BY_NAME:
        raise ValueError(f"recipe is {name!r}: choose {AUTO} or one of {', '.join(BY_NAME)}.")
    return BY_NAME[name]


def with_eta(recipe: Recipe, eta: float | None) -> Recipe:
    """The recipe with another eta than its own (None); ValueError where it takes none, or not this."""
    if eta is None:
        return recipe
    if recipe.eta is None:
        of_others = " and ".join(other.name for other in BY_NAME.values() if other.eta is not None)
        raise ValueError(f"eta is {eta:g}, and {recipe.name} has none: set it to -1. It is for {of_others}.")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta:g}; {recipe.name} takes 0 to 1: set it to -1 for its makers' {recipe.eta:g}.")
    return recipe._replace(eta=float(eta))


def guidance_scale(recipe: Recipe, cfg: float) -> float:
    """The cfg to draw with: UNSET_CFG means the makers' own. ValueError above what they give."""
    if not cfg >= 1:
        raise ValueError(f"cfg is {cfg:g}; 1 is without guidance: raise cfg to 1.")
    if cfg > recipe.guidance.max:
        if recipe.guidance == NO_GUIDANCE:
            raise ValueError(f"cfg is {cfg:g}, and {recipe.name} draws without guidance, by its makers: set cfg to 1.")
        raise ValueError(
            f"cfg is {cfg:g}; the makers of {recipe.name} go up to {recipe.guidance.max:g}: lower cfg to it, or to less."
        )
    return recipe.guidance.default if cfg == UNSET_CFG else cfg
