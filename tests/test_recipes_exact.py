"""Each recipe against diffusers' own pipeline with its makers' scheduler, in fp32, on vega-nano's real weights."""

import comfy.samplers
import pytest
import torch
from recipe_drawing import SCALE, draw, encode, expected, img2img, pipeline, with_recipe
from vega_pack.vega import lcm, recipes

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
NAMES = list(recipes.BY_NAME)
CASES = [(1, 1, 16, 16, 0), (2, 3, 12, 20, 5), (4, 1, 20, 12, 2**64 - 1), (4, 3, 16, 16, 42), (8, 1, 17, 15, 7)]
CASES += [(3, 1, 16, 16, 1), (12, 1, 16, 16, 3)]  # which part 1000 timesteps with a remainder
EVERY = [pytest.param(*case, marks=pytest.mark.soak) for case in CASES]
PICTURES = [name for name in NAMES if recipes.BY_NAME[name].timesteps is recipes.DMD2.timesteps]


@pytest.fixture(scope="module")
def oracle(inference):
    return pipeline()


def assert_close(latents, wanted):
    assert (latents - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("steps", "batch", "height", "width", "seed"), [(4, 2, 12, 20, 2**64 - 1), *EVERY])
def test_latents_are_the_pipelines(oracle, nano, few_step, name, steps, batch, height, width, seed):
    model = with_recipe(few_step, name)
    cfg = recipes.BY_NAME[name].guidance.default
    latents = draw(model, nano[1], {"samples": torch.zeros(batch, 4, height, width)}, steps, seed, cfg=cfg)
    size = {"height": 8 * height, "width": 8 * width}
    assert_close(latents, expected(oracle, name, batch, steps, seed, cfg=cfg if cfg > 1 else 0.0, **size))


@pytest.mark.parametrize("name", [name for name in NAMES if recipes.BY_NAME[name].guidance != recipes.NO_GUIDANCE])
@pytest.mark.parametrize(("steps", "batch"), [pytest.param(4, 1, id="one"), pytest.param(8, 3, marks=pytest.mark.soak)])
def test_guidance_is_the_pipelines(oracle, nano, few_step, name, steps, batch):
    most = recipes.BY_NAME[name].guidance.max
    drawn = draw(with_recipe(few_step, name), nano[1], {"samples": torch.zeros(batch, 4, 12, 16)}, steps, cfg=most)
    assert_close(drawn, expected(oracle, name, batch, steps, cfg=most, height=96, width=128))


@pytest.mark.parametrize("eta", [0.0, pytest.param(0.7, marks=pytest.mark.soak)])
def test_eta_is_the_pipelines(oracle, nano, few_step, eta, monkeypatch):
    monkeypatch.setitem(recipes.BY_NAME, "TCD", recipes.with_eta(recipes.TCD, eta))
    drawn = draw(with_recipe(few_step, "TCD"), nano[1], {"samples": torch.zeros(2, 4, 16, 16)})
    assert_close(drawn, expected(oracle, "TCD", 2, height=128, width=128))


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(
    ("steps", "denoise"),
    [(4, 0.5), *(pytest.param(*case, marks=pytest.mark.soak) for case in ((8, 0.7), (2, 1.0), (3, 0.4)))],
)
def test_pictures_are_changed_as_the_pipeline_does(oracle, nano, few_step, name, steps, denoise):
    """Of the grid the last steps are drawn, so that the adapter is asked at timesteps that it was made for."""
    picture, cfg = torch.randn(2, 4, 16, 16), recipes.BY_NAME[name].guidance.default
    drawn = draw(with_recipe(few_step, name), nano[1], {"samples": picture}, steps, denoise=denoise, cfg=cfg)
    given = {"image": picture * SCALE, "strength": denoise, "cfg": cfg if cfg > 1 else 0.0}
    wanted = expected(img2img(oracle), name, 2, steps, **given)
    # At denoise 1 the host starts from noise of the whole variance plus the picture, the pipeline from a little less.
    assert (drawn - wanted).abs().max() <= (1e-4 if denoise < 1 else 3e-2) * wanted.abs().max()


def test_lcm_is_byte_for_byte_what_it_was(nano, few_step):
    """The loop as it was before there were other recipes, in the host's own stack."""
    levels = few_step.get_model_object("model_sampling").sigmas[[49, 37, 24, 12]].tolist() + [0.0]
    streams = lcm.make_generators(7, [0, 1])
    shape = (2, 4, 16, 12)

    def loop(model, x, sigmas, extra_args, callback, disable):
        ones = x.new_ones(len(x))
        for i in range(len(levels) - 1):
            clean = model(x, sigmas[i] * ones, **extra_args)
            x = clean
            if levels[i + 1] > 0:
                x = clean + levels[i + 1] * lcm.batch_noise(x.shape, streams)
        return x

    positive = encode(nano[1], "night, desert, full moon")
    guider = comfy.samplers.CFGGuider(few_step)
    guider.inner_set_conds({"positive": positive})
    start = torch.zeros(shape)
    before = guider.sample(
        lcm.batch_noise(shape, streams),
        start,
        comfy.samplers.KSAMPLER(loop),
        torch.tensor(levels),
        disable_pbar=True,
        seed=7,
    )
    now = lcm.sample(few_step, 7, 4, positive, {"samples": start}, 1.0, disable_progress=True)["samples"]
    assert torch.equal(now, before)
