"""What holds for LCM holds for every recipe: seeds, batches, masks, denoise, progress, interrupt, Accelerate, guidance."""

import comfy.model_management
import pytest
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from graph_recorder import Recorder, graphed
from recipe_drawing import NEGATIVE, PROMPT, SCALE, draw, encode, with_recipe
from vega_pack.vega import accelerate, lcm, recipes

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
QUICK = {"TCD", "SDXL-Lightning", "Hyper-SD CFG"}  # one of each step function that LCM has not, one of them with guidance
every_row = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in recipes.BY_NAME]
)


def empty(batch=1, **keys):
    return {"samples": torch.zeros(batch, 4, 12, 16), **keys}


@pytest.fixture
def row(few_step, nano, name):
    """Draws by the recipe, with its makers' guidance."""
    model, cfg = with_recipe(few_step, name), recipes.BY_NAME[name].guidance.default

    def draw_row(latent, model=model, **settings):
        return draw(model, nano[1], latent, cfg=cfg, **settings)

    draw_row.model = model
    return draw_row


@every_row
def test_a_picture_of_a_batch_is_the_picture_drawn_alone(row):
    together = row(empty(3), seed=10)
    assert not torch.allclose(together[0], together[1], atol=0.1)
    for k in (0, 2):
        assert torch.allclose(row(empty(), seed=10 + k), together[k : k + 1], atol=1e-4)
        assert torch.allclose(row(empty(batch_index=[k]), seed=10), together[k : k + 1], atol=1e-4)


@every_row
def test_a_noise_mask_keeps_what_it_hides(row):
    """Exactly, although the last step of DDIM and TCD leaves noise; also with a mask that changes from step to step."""
    picture = torch.randn(1, 4, 12, 16)
    mask = torch.zeros(1, 1, 12, 16)
    mask[..., 6:10], mask[..., 10:] = 0.5, 1
    (gradual,) = DifferentialDiffusion.execute(row.model).args
    for model in (row.model, gradual):
        out = row({"samples": picture.clone(), "noise_mask": mask}, model=model, denoise=0.75) / SCALE
        assert torch.allclose(out[..., :6], picture[..., :6], atol=1e-4)
        assert (out[..., 10:] - picture[..., 10:]).abs().mean() > 0.3


@every_row
def test_every_step_that_is_drawn_is_reported(few_step, nano, name):
    """Of the trailing grid that is fewer than steps, at a lower denoise."""
    model, seen = with_recipe(few_step, name), []
    recipe = recipes.BY_NAME[name]
    prompts = {"negative": encode(nano[1], NEGATIVE)}
    latent = {"samples": torch.randn(2, 4, 8, 8)}
    report = lambda step, clean, noisy, total: seen.append((step, total, tuple(clean.shape)))  # noqa: E731
    lcm.sample(model, 1, 4, encode(nano[1], PROMPT), latent, 0.5, report, True, **prompts)
    drawn = len(recipe.timesteps(4, 0.5))
    assert drawn == (4 if recipe.timesteps is recipes.LCM.timesteps else 2)
    assert seen == [(k, drawn, (2, 4, 8, 8)) for k in range(drawn)]


@every_row
def test_denoise_zero_changes_nothing(row):
    picture = torch.randn(1, 4, 12, 16)
    assert torch.equal(row({"samples": picture}, denoise=0.0), picture * SCALE)


@every_row
def test_accelerated_it_draws_the_same_also_after_an_interrupt(row, few_step, nano, name):
    recorder = Recorder()
    try:
        fast = graphed(row.model, recorder)
        expected = row(empty(2), seed=3)
        assert torch.equal(row(empty(2), model=fast, seed=3), expected)

        def interrupt(step, *_):
            comfy.model_management.interrupt_current_processing()

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            negative = encode(nano[1], NEGATIVE)
            lcm.sample(fast, 5, 4, encode(nano[1], PROMPT), empty(), 1.0, interrupt, True, negative)
        assert torch.equal(row(empty(2), model=fast, seed=3), expected)
        assert recorder.replayed
    finally:
        setattr(few_step.model, accelerate.PATCH_KEY, None)


def test_a_negative_prompt_counts_only_with_guidance(few_step, nano):
    """At cfg 1 the picture is the same bit for bit with one and without; above it is another."""
    model, positive, negative = with_recipe(few_step, "PCM"), encode(nano[1], PROMPT), encode(nano[1], NEGATIVE)

    def sample(**settings):
        return lcm.sample(model, 5, 2, positive, empty(), 1.0, disable_progress=True, **settings)["samples"]

    plain = sample()
    assert torch.equal(sample(negative=negative), plain)
    assert torch.equal(sample(negative=negative, cfg=1.0), plain)
    guided = sample(negative=negative, cfg=2.0)
    assert (guided - plain).abs().max() > 0.1
    assert not torch.allclose(sample(negative=positive, cfg=2.0), guided, atol=0.1)


@pytest.mark.parametrize(
    ("name", "cfg", "words"),
    [
        ("LCM", 1.5, r"cfg 1\.5 needs a negative prompt: connect one, an empty CLIP Text Encode will do, or set cfg to 1\."),
        ("Hyper-SD CFG", 1.0, r"Hyper-SD CFG draws with guidance \(cfg 5\).*connect one"),
        ("LCM", 2.1, "the makers of LCM go up to 2: lower cfg to it"),
        ("DMD2", 1.1, "cfg is 1.1, and DMD2 draws without guidance, by its makers: set cfg to 1"),
    ],
)
def test_guidance_that_can_t_be_is_refused(few_step, nano, name, cfg, words):
    with pytest.raises(ValueError, match=words) as error:
        lcm.sample(with_recipe(few_step, name), 5, 4, encode(nano[1], PROMPT), empty(), 1.0, cfg=cfg)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("entries", [[], [[torch.zeros(1, 77, 5), {}]], [[torch.full((1, 77, 96), float("nan")), {}]]])
def test_a_negative_that_can_t_enter_is_refused_by_its_name(few_step, nano, entries):
    with pytest.raises(ValueError, match="^negative (has|contains)"):
        lcm.sample(few_step, 5, 4, encode(nano[1], PROMPT), empty(), 1.0, negative=entries, cfg=1.5)


def test_cores_patches_on_the_negative_work_with_one_alone(few_step, nano):
    positive, negative = encode(nano[1], PROMPT), encode(nano[1], NEGATIVE)
    (patched,) = NAGuidance.execute(few_step, 5.0, 0.5, 1.5).args
    with pytest.raises(ValueError, match="negative is not connected: connect one"):
        lcm.sample(patched, 5, 2, positive, empty(), 1.0)
    drawn = lcm.sample(patched, 5, 2, positive, empty(), 1.0, disable_progress=True, negative=negative)["samples"]
    plain = lcm.sample(few_step, 5, 2, positive, empty(), 1.0, disable_progress=True)["samples"]
    assert drawn.isfinite().all()
    assert (drawn - plain).abs().max() > 0.01


@pytest.mark.soak
def test_self_attention_guidance_works_with_a_negative(small):
    """On a UNet that has attention in its middle, which vega-nano and Segmind-Vega have not."""
    _, base, clip = small["SD 1.5"]
    model = base.clone()
    model = with_recipe(model, "LCM")
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    (patched,) = SelfAttentionGuidance.execute(model, 0.5, 2.0).args
    prompts = encode(clip, "a lake"), encode(clip, "a house")
    with pytest.raises(ValueError, match="Self-Attention Guidance"):
        lcm.sample(patched, 5, 2, prompts[0], latent, 1.0)
    settings = {"disable_progress": True, "negative": prompts[1]}
    drawn = lcm.sample(patched, 5, 2, prompts[0], latent, 1.0, **settings)["samples"]
    assert (drawn - lcm.sample(model, 5, 2, prompts[0], latent, 1.0, **settings)["samples"]).abs().max() > 0
