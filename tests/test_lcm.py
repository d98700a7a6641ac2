"""The grid, the noise and the consistency function against diffusers' LCMScheduler."""

import re

import pytest
import torch
from diffusers import LCMScheduler
from vega_pack.vega import lcm, model_sampling, recipes, step_functions, timestep_grids

SCHEDULER = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


@pytest.mark.parametrize("percent", range(1, 101))
def test_timesteps_are_the_schedulers_or_refused_where_it_raises(percent):
    denoise = percent / 100
    for steps in range(1, 51):
        scheduler = LCMScheduler(**SCHEDULER)
        try:
            scheduler.set_timesteps(steps, strength=denoise)
        except ValueError:
            with pytest.raises(ValueError, match="at most|leaves no step"):
                timestep_grids.lcm(steps, denoise)
        else:
            assert timestep_grids.lcm(steps, denoise) == scheduler.timesteps.tolist(), (steps, denoise)


@pytest.mark.parametrize("steps", [0, -1, 51, 1000])
def test_steps_that_no_grid_has_are_refused(steps):
    with pytest.raises(ValueError, match="at least 1 and at most 50"):
        timestep_grids.lcm(steps, 1.0)


@pytest.mark.parametrize("percent", range(2, 101))
def test_refused_steps_come_with_numbers_that_work(percent):
    """Both numbers of the sentence are accepted, and a hundredth less of denoise is not."""
    for steps in range(int(50 * (percent / 100)) + 1, 51):
        with pytest.raises(ValueError, match="lower steps to") as refused:
            timestep_grids.lcm(steps, percent / 100)
        fewer, more = re.fullmatch(r".*lower steps to (\d+), or raise denoise to ([\d.]+)\.", str(refused.value)).groups()
        timestep_grids.lcm(int(fewer), percent / 100)
        timestep_grids.lcm(steps, float(more))
        with pytest.raises(ValueError, match="at most|leaves no step"):
            timestep_grids.lcm(steps, float(more) - 0.01)


@pytest.mark.parametrize("denoise", [-0.1, 1.1, float("nan")])
def test_denoise_outside_its_range_is_refused(denoise):
    with pytest.raises(ValueError, match="between 0 and 1"):
        timestep_grids.lcm(4, denoise)


def sampling():
    return model_sampling.LCMSampling(None)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
def test_sigmas_are_the_schedulers_noise_levels(steps):
    scheduler = LCMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    a = scheduler.alphas_cumprod[scheduler.timesteps].double()
    expected = ((1 - a) / a).sqrt()
    table, recipe = sampling().sigmas.tolist(), recipes.LCM
    plan = step_functions.plan_steps(recipe.step_function, recipe.eta, table, recipe.timesteps(steps, 1.0), steps)
    assert torch.allclose(torch.tensor([levels.current for levels in plan]).double(), expected, rtol=1e-5)
    assert [levels.next for levels in plan] == [*(levels.current for levels in plan[1:]), 0]


@pytest.mark.parametrize("t", [19, 259, 499, 999])
def test_consistency_function_is_the_schedulers(t):
    """One LCMScheduler step from the VP latent equals calculate_denoised from the VE latent of the same noise level."""
    scheduler = LCMScheduler(**SCHEDULER)
    scheduler.set_timesteps(50)
    vp, epsilon = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    expected = scheduler.step(epsilon, torch.tensor(t), vp, generator=torch.Generator().manual_seed(0)).denoised
    sigma = sampling().sigmas[(t + 1) // 20 - 1].repeat(2)
    ve = vp * (1 + sigma[0] ** 2) ** 0.5
    assert sampling().timestep(sigma).tolist() == [t, t]
    assert torch.allclose(sampling().calculate_denoised(sigma, epsilon, ve), expected, rtol=1e-4, atol=1e-4)


def test_noise_of_one_picture_does_not_depend_on_its_batch():
    together = lcm.make_generators(7, [0, 1, 2])
    alone = lcm.make_generators(9, [0])
    for _ in range(3):
        assert torch.equal(lcm.batch_noise((3, 4, 8, 8), together)[2:], lcm.batch_noise((1, 4, 8, 8), alone))


def test_seeds_wrap_at_64_bits():
    wrapped, zero = lcm.make_generators(2**64 - 1, [0, 1])[1], lcm.make_generators(0, [0])[0]
    assert torch.equal(torch.randn(4, generator=wrapped), torch.randn(4, generator=zero))
