"""LCM Sampler against core's and diffusers' own loops, and what it keeps of the latent that comes in."""

from pathlib import Path

import comfy.k_diffusion.sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from diffusers import LCMScheduler, UNet2DConditionModel
from lcm_drawing import draw, empty
from vega_pack.vega import checkpoint, lcm, model_sampling

import nodes as host_nodes

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
NANO_DIR = Path(checkpoint.NANO_DIR)
SCALE = 0.13025


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_cores_lcm_sampler_gives_the_same(few_step, positive, steps):
    """Core's LCM sampler gives the same latents from the same noise."""
    shape = (2, 4, 16, 24)
    streams = lcm.make_generators(5, [0, 1])
    start = lcm.batch_noise(shape, streams)
    sampler = comfy.samplers.KSAMPLER(
        comfy.k_diffusion.sampling.sample_lcm,
        extra_options={"noise_sampler": lambda sigma, sigma_next: lcm.batch_noise(shape, streams)},
    )
    sigmas = comfy.samplers.calculate_sigmas(few_step.get_model_object("model_sampling"), "simple", steps)
    core = comfy.sample.sample_custom(
        few_step, start, 1.0, sampler, sigmas, positive, positive, torch.zeros(shape), disable_pbar=True
    )
    ours = draw(few_step, positive, empty(2, 16, 24), steps=steps)
    assert (ours - core).abs().max() <= 1e-4 * core.abs().max()


@pytest.mark.parametrize("steps", [1, 4])
def test_core_sampling_makes_our_sampler_work_on_fused_models(nano, positive, steps):
    """A model whose LoRA is merged already has no sampling of ours: core's node gives it the same."""
    model = nano[0]
    (fused,) = ModelSamplingDiscrete().patch(model, "lcm", False)
    ours = model.clone()
    ours.add_object_patch("model_sampling", model_sampling.LCMSampling(model.model.model_config))
    expected = draw(ours, positive, empty(), steps=steps)
    assert (draw(fused, positive, empty(), steps=steps) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_plain_ksampler_at_cfg_9_with_a_negative_prompt(nano, positive):
    model, clip, _ = nano

    def core(negative):
        negative = clip.encode_from_tokens_scheduled(clip.tokenize(negative))
        noise = comfy.sample.prepare_noise(empty()["samples"], 1)
        return comfy.sample.sample(
            model, noise, 6, 9.0, "euler", "normal", positive, negative, empty()["samples"], disable_pbar=True
        )

    one, other = core("sea"), core("sunset, forest")
    assert one.isfinite().all()
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_noise_mask_keeps_what_it_hides(few_step, positive):
    picture = torch.randn(1, 4, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    out = draw(few_step, positive, {"samples": picture.clone(), "noise_mask": mask})
    assert torch.allclose(out[..., :8], picture[..., :8], atol=1e-4)
    assert (out[..., 8:] - picture[..., 8:]).abs().mean() > 0.5


def test_a_picture_of_a_batch_is_the_picture_drawn_alone(few_step, positive):
    together = draw(few_step, positive, empty(3), seed=10)
    for k in range(3):
        assert torch.allclose(draw(few_step, positive, empty(1), seed=10 + k), together[k : k + 1], atol=1e-4)
        (one,) = host_nodes.LatentFromBatch().frombatch(empty(3), k, 1)
        assert torch.allclose(draw(few_step, positive, one, seed=10), together[k : k + 1], atol=1e-4)


def test_the_latent_is_untouched_and_its_keys_kept(few_step, positive):
    """The latent that came in is untouched, and its keys are in what goes out."""
    latent = empty(2, batch_index=[4, 7], remark="kept")
    before = latent["samples"].clone()
    out = lcm.sample(few_step, 0, 2, positive, latent, 1.0, disable_progress=True)
    assert torch.equal(latent["samples"], before)
    assert latent.keys() == out.keys() - {lcm.LATENT_FORMAT_KEY}
    assert (out["batch_index"], out["remark"]) == ([4, 7], "kept")


def test_denoise_zero_changes_nothing(few_step, positive):
    picture = torch.randn(1, 4, 16, 16)
    assert torch.equal(draw(few_step, positive, {"samples": picture}, denoise=0.0), picture)


@pytest.mark.parametrize(("steps", "denoise"), [(4, 0.5), (3, 0.3), (8, 0.9)])
def test_image_to_image_is_the_schedulers_loop(nano, few_step, positive, steps, denoise):
    unet = UNet2DConditionModel.from_pretrained(NANO_DIR / "unet", torch_dtype=torch.float32)
    picture = torch.randn(2, 4, 16, 16)
    generators = [torch.Generator().manual_seed(5 + i) for i in range(2)]
    scheduler = LCMScheduler.from_pretrained(NANO_DIR / "scheduler")
    scheduler.set_timesteps(steps, strength=denoise)
    noise = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in generators])
    x = scheduler.add_noise(picture * SCALE, noise, scheduler.timesteps[:1])
    context, pooled = positive[0][0].repeat(2, 1, 1), positive[0][1]["pooled_output"].repeat(2, 1)
    sizes = torch.tensor([[128, 128, 0, 0, 128, 128]] * 2)
    for t in scheduler.timesteps:
        epsilon = unet(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        x = scheduler.step(epsilon, t, x, generator=generators).prev_sample
    base = nano[0].clone()
    base.add_object_patch("model_sampling", model_sampling.LCMSampling(base.model.model_config))
    out = draw(base, positive, {"samples": picture}, steps=steps, denoise=denoise)
    assert (out * SCALE - x).abs().max() <= 1e-4 * x.abs().max()


def test_every_step_is_reported_with_the_clean_picture_so_far(few_step, positive):
    """The host's previews and progress bar hang on this callback."""
    seen = []

    def callback(step, clean, noisy, total):
        seen.append((step, total, tuple(clean.shape), clean.isfinite().all().item()))

    lcm.sample(few_step, 0, 3, positive, empty(2), 1.0, callback, disable_progress=True)
    assert seen == [(i, 3, (2, 4, 16, 16), True) for i in range(3)]
