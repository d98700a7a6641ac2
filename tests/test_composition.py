"""What people do with a MODEL, CLIP, VAE and LATENT in the host keeps working on ours."""

from pathlib import Path

import comfy.cldm.cldm
import comfy.controlnet
import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from diffusers import AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from vega_pack.vega import checkpoint, lcm, lora

import nodes as host_nodes

NANO = Path(checkpoint.NANO)
SCALE = 0.13025


@pytest.fixture(scope="module", autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def nano(inference):
    return checkpoint.load(NANO, "tiny", [])


@pytest.fixture(scope="module")
def few_step(nano):
    return lora.apply(nano[0], checkpoint.NANO_LORA, 1.0)


@pytest.fixture(scope="module")
def positive(nano):
    return nano[1].encode_from_tokens_scheduled(nano[1].tokenize("night, desert, full moon"))


def empty(batch=1, height=16, width=16, **keys):
    return {"samples": torch.zeros(batch, 4, height, width), **keys}


def draw(model, positive, latent, seed=5, steps=4, denoise=1.0):
    return lcm.sample(model, seed, steps, positive, latent, denoise, disable_progress=True)["samples"]


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_cores_lcm_sampler_gives_the_same_picture_from_the_same_noise(few_step, positive, steps):
    shape = (2, 4, 16, 24)
    streams = lcm.generators(5, [0, 1])
    start = lcm.noise(shape, streams)
    sampler = comfy.samplers.KSAMPLER(
        comfy.k_diffusion.sampling.sample_lcm,
        extra_options={"noise_sampler": lambda sigma, sigma_next: lcm.noise(shape, streams)},
    )
    sigmas = comfy.samplers.calculate_sigmas(few_step.get_model_object("model_sampling"), "simple", steps)
    core = comfy.sample.sample_custom(
        few_step, start, 1.0, sampler, sigmas, positive, positive, torch.zeros(shape), disable_pbar=True
    )
    ours = draw(few_step, positive, empty(2, 16, 24), steps=steps)
    assert (ours - core).abs().max() <= 1e-4 * core.abs().max()


def test_core_sampling_makes_our_sampler_work_on_fused_models(nano, positive):
    (fused,) = ModelSamplingDiscrete().patch(nano[0], "lcm", False)
    assert draw(fused, positive, empty()).isfinite().all()


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


def test_cores_vae_nodes_on_our_vae(nano):
    vae = nano[2]
    reference = AutoencoderTiny.from_pretrained(NANO / "vae", torch_dtype=torch.float32)
    pixels = torch.rand(2, 64, 96, 3)
    (encoded,) = host_nodes.VAEEncode().encode(vae, pixels)
    expected = reference.encode(pixels.movedim(-1, 1) * 2 - 1).latents
    assert (encoded["samples"] * SCALE - expected).abs().max() <= 1e-5 * expected.abs().max()
    (decoded,) = host_nodes.VAEDecode().decode(vae, encoded)
    expected = (reference.decode(expected).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (decoded - expected).abs().max() < 1e-5


def test_a_core_lora_on_top_adds_up_and_comes_off_again(nano, few_step, positive):
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    weight = nano[0].model.state_dict()[key]
    down, up = torch.randn(4, *weight.shape[1:]) * 0.1, torch.randn(weight.shape[0], 4, 1, 1) * 0.1
    style = {"lora_unet_mid_block_resnets_0_conv1.lora_down.weight": down}
    style["lora_unet_mid_block_resnets_0_conv1.lora_up.weight"] = up
    plain = draw(few_step, positive, empty())
    styled, _ = comfy.sd.load_lora_for_models(few_step, None, style, 0.7, 0.0)
    assert not torch.allclose(draw(styled, positive, empty()), plain, atol=1e-3)

    loaded = []
    for model in (few_step, styled):
        comfy.model_management.load_models_gpu([model])
        loaded.append(model.model.state_dict()[key].clone())
    update = 0.7 * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    assert torch.allclose(loaded[1], loaded[0] + update, atol=1e-5)
    assert torch.equal(draw(few_step, positive, empty()), plain)


def test_a_noise_mask_keeps_what_it_hides(few_step, positive):
    picture = torch.randn(1, 4, 16, 16)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    out = draw(few_step, positive, {"samples": picture.clone(), "noise_mask": mask})
    assert torch.allclose(out[..., :8], picture[..., :8], atol=1e-4)
    assert (out[..., 8:] - picture[..., 8:]).abs().mean() > 0.5


def test_a_controlnet_with_random_weights_steers(nano, few_step, positive):
    torch.manual_seed(3)
    config = dict(nano[0].model.model_config.unet_config, hint_channels=3, dtype=torch.float32, device="cpu")
    config.pop("out_channels")
    config.pop("transformer_depth_output")
    net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.disable_weight_init)
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.05
    control = comfy.controlnet.ControlNet(net, load_device=few_step.load_device)
    (steered, _) = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, [], control, torch.rand(1, 128, 128, 3), 1.0, 0.0, 1.0
    )
    plain, out = draw(few_step, positive, empty()), draw(few_step, steered, empty())
    assert out.isfinite().all()
    assert not torch.allclose(plain, out, atol=1e-3)


def test_a_picture_of_a_batch_is_the_picture_drawn_alone(few_step, positive):
    together = draw(few_step, positive, empty(3), seed=10)
    for k in range(3):
        assert torch.allclose(draw(few_step, positive, empty(1), seed=10 + k), together[k : k + 1], atol=1e-4)
        (one,) = host_nodes.LatentFromBatch().frombatch(empty(3), k, 1)
        assert torch.allclose(draw(few_step, positive, one, seed=10), together[k : k + 1], atol=1e-4)


def test_the_latent_that_came_in_is_untouched_and_its_keys_are_kept(few_step, positive):
    latent = empty(2, batch_index=[4, 7], remark="kept")
    before = latent["samples"].clone()
    out = lcm.sample(few_step, 0, 2, positive, latent, 1.0, disable_progress=True)
    assert torch.equal(latent["samples"], before)
    assert latent.keys() == out.keys()
    assert (out["batch_index"], out["remark"]) == ([4, 7], "kept")


def test_denoise_zero_changes_nothing(few_step, positive):
    picture = torch.randn(1, 4, 16, 16)
    assert torch.equal(draw(few_step, positive, {"samples": picture}, denoise=0.0), picture)


@pytest.mark.parametrize(("steps", "denoise"), [(4, 0.5), (3, 0.3), (8, 0.9)])
def test_image_to_image_is_the_schedulers_loop(nano, few_step, positive, steps, denoise):
    unet = UNet2DConditionModel.from_pretrained(NANO / "unet", torch_dtype=torch.float32)
    picture = torch.randn(2, 4, 16, 16)
    generators = [torch.Generator().manual_seed(5 + i) for i in range(2)]
    scheduler = LCMScheduler.from_pretrained(NANO / "scheduler")
    scheduler.set_timesteps(steps, strength=denoise)
    noise = torch.cat([torch.randn(1, 4, 16, 16, generator=g) for g in generators])
    x = scheduler.add_noise(picture * SCALE, noise, scheduler.timesteps[:1])
    context, pooled = positive[0][0].repeat(2, 1, 1), positive[0][1]["pooled_output"].repeat(2, 1)
    sizes = torch.tensor([[128, 128, 0, 0, 128, 128]] * 2)
    for t in scheduler.timesteps:
        epsilon = unet(x, t, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        x = scheduler.step(epsilon, t, x, generator=generators).prev_sample
    base = nano[0].clone()
    base.add_object_patch("model_sampling", lcm.LCMSampling(base.model.model_config))
    out = draw(base, positive, {"samples": picture}, steps=steps, denoise=denoise)
    assert (out * SCALE - x).abs().max() <= 1e-4 * x.abs().max()


def test_the_model_that_came_in_is_unchanged(nano, few_step):
    assert not lcm.has_lcm_sampling(nano[0])
    assert not nano[0].patches
    assert len(few_step.patches) > 100


def test_every_step_is_reported_with_the_clean_picture_so_far(few_step, positive):
    """The host's previews and progress bar hang on this callback."""
    seen = []

    def callback(step, clean, noisy, total):
        seen.append((step, total, tuple(clean.shape), clean.isfinite().all().item()))

    lcm.sample(few_step, 0, 3, positive, empty(2), 1.0, callback, disable_progress=True)
    assert seen == [(i, 3, (2, 4, 16, 16), True) for i in range(3)]
