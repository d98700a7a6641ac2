"""The table of recipes: its timesteps and steps against the makers' schedulers, its numbers against their bounds."""

from pathlib import Path

import makers_schedulers
import pytest
import torch
from vega_pack.vega import model_sampling, recipes, step_functions

NAMES = list(recipes.BY_NAME)


def test_every_row_has_its_makers_scheduler():
    assert set(NAMES) == makers_schedulers.MAKERS.keys()
    assert recipes.AUTO not in NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "percents",
    [pytest.param((10, 29, 50, 58, 75, 100), id="some"), pytest.param(range(1, 101), id="all", marks=pytest.mark.soak)],
)
def test_timesteps_are_the_makers_or_refused(name, percents):
    """For every number of steps; where their pipeline has none left, the sentence has a number that works."""
    for percent in percents:
        denoise = percent / 100
        for steps in range(1, 51):
            try:
                expected = makers_schedulers.timesteps(name, steps, denoise)
            except ValueError:
                with pytest.raises(ValueError, match=r"at most|leaves no step") as refused:
                    recipes.BY_NAME[name].timesteps(steps, denoise)
                if "raise denoise to " in str(refused.value):
                    enough = float(str(refused.value).split("raise denoise to ")[1].split(",")[0].rstrip("."))
                    assert recipes.BY_NAME[name].timesteps(steps, enough)
            else:
                assert recipes.BY_NAME[name].timesteps(steps, denoise) == expected, (steps, denoise)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LCM"])
@pytest.mark.parametrize(("steps", "denoise"), [(1, 1.0), (3, 1.0), (4, 1.0), (8, 0.5), (12, 0.7)])
def test_a_loop_on_random_predictions_is_the_schedulers(name, steps, denoise):
    """In float64, so that a level of one timestep more or less shows; 3 and 12 steps part 1000 with a remainder."""
    recipe, scheduler = recipes.BY_NAME[name], makers_schedulers.scheduler(name)
    times = recipe.timesteps(steps, denoise)
    if custom := makers_schedulers.custom_timesteps(name, steps):
        scheduler.set_timesteps(timesteps=custom)
        scheduler.set_begin_index(steps - len(times))
    elif recipe.timesteps is recipes.LCM.timesteps:
        scheduler.set_timesteps(steps, strength=denoise)
    else:
        scheduler.set_timesteps(steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(steps - len(times))
    sampling = model_sampling.from_recipe(recipe, None).double()
    plan = step_functions.plan_steps(recipe.step_function, recipe.eta, sampling.sigmas.tolist(), times, steps)
    picture, first = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64)
    x = sampling.noise_scaling(torch.tensor([plan[0].current]).double(), first.clone(), picture)
    theirs = scheduler.add_noise(picture, first, torch.tensor([times[0]]))
    ours, expected = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    options = {"eta": recipe.eta} if recipe.eta is not None else {}
    options |= {} if recipe.step_function is step_functions.ddim else {"generator": expected}
    for t, levels in zip(times, plan, strict=True):
        epsilon = torch.randn(x.shape, dtype=torch.float64)
        sigma = torch.tensor([levels.current], dtype=torch.float64)
        clean = sampling.calculate_denoised(sigma, epsilon, x)
        x = recipe.step_function(x, clean, levels, lambda: torch.randn(x.shape, generator=ours, dtype=torch.float64))  # noqa: B023
        step = torch.tensor(t, dtype=torch.float32 if recipe.step_function is step_functions.euler else torch.int64)
        scheduler.scale_model_input(theirs, step)
        theirs = scheduler.step(epsilon, step, theirs, **options).prev_sample
    assert (x - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.55, 1.0])
def test_eta_is_the_schedulers(eta):
    recipe = recipes.with_eta(recipes.TCD, eta)
    table = model_sampling.from_recipe(recipe, None).sigmas.tolist()
    for steps in range(2, 51):
        times = recipe.timesteps(steps, 1.0)
        reached = [int(torch.floor((1 - eta) * torch.tensor(t))) for t in (*times[1:], 0)]
        plan = step_functions.plan_steps(recipe.step_function, recipe.eta, table, times, steps)
        assert [levels.target for levels in plan] == [table[t] for t in reached]


def test_without_new_noise_none_is_drawn():
    """At eta 0 TCD draws no noise, as its scheduler, which would change what the next picture's generator gives."""
    levels = step_functions.StepSigmas(14.6, 1.6, 1.6)
    x, clean = torch.randn(2, 1, 4, 8, 8)
    step_functions.tcd(x, clean, levels, lambda: pytest.fail("noise was drawn"))


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_out_of_range_is_refused(eta):
    with pytest.raises(ValueError, match="TCD takes 0 to 1: set it to -1 for its makers' 0.3"):
        recipes.with_eta(recipes.TCD, eta)


def test_eta_on_a_recipe_without_is_refused():
    with pytest.raises(ValueError, match="DMD2 has none: set it to -1. It is for Hyper-SD 1-step and TCD"):
        recipes.with_eta(recipes.DMD2, 0.3)
    assert recipes.with_eta(recipes.DMD2, None) is recipes.DMD2


@pytest.mark.parametrize("name", NAMES)
def test_guidance_has_its_makers_bounds(name):
    recipe = recipes.BY_NAME[name]
    least, most, start = recipe.guidance
    assert recipes.guidance_scale(recipe, 1.0) == start
    assert 1 <= least <= start <= most
    assert recipes.guidance_scale(recipe, most) == most
    with pytest.raises(ValueError, match="set cfg to 1" if most == 1 else f"go up to {most:g}"):
        recipes.guidance_scale(recipe, most + 0.1)
    for low in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="raise cfg to 1"):
            recipes.guidance_scale(recipe, low)


PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")


def row(name: str, header: str) -> list[str]:
    """The cells of a recipe's row in the page's table that has this header."""
    table = PAGE.partition(f"| recipe | {header} |")[2].partition("\n\n")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_the_table_has(name):
    recipe = recipes.BY_NAME[name]
    for_, steps, cfg, licence = row(name, "for | steps | cfg | licence of the files")
    least, most, start = recipe.guidance
    scale = "1" if most == 1 else f"{least:g} to {most:g}" + (f", from {start:g}" if start > 1 else "")
    is_range = isinstance(recipe.steps, range)
    assert steps == (f"1 to {recipe.steps[-1]}" if is_range else ", ".join(map(str, recipe.steps)))
    assert cfg == scale
    assert (for_ == "SDXL") == recipe.is_for_sdxl
    assert licence.startswith(recipe.licence)
    assert ("no commercial use" in licence) == bool(recipe.licence)
    times, step, page = row(name, "timesteps of 4 steps | step | its makers' page")
    assert times == ", ".join(map(str, recipe.timesteps(4, 1.0)))
    assert step.split(",")[0].lower() == recipe.step_function.__name__
    assert step.partition(" eta ")[2] == (f"{recipe.eta:g}" if recipe.eta is not None else "")
    assert recipe.source.split(";")[0].split(",")[0] in page
