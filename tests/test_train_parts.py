"""The parts that vega-nano's training is made of, each against an independent statement of the same thing."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionXLPipeline
from safetensors.torch import save

from train import consistency, muon, text_encoding, trajectories
from train.diffusion import NOISE_SCHEDULE, Diffusion, load_unet, stratified_timesteps
from train.distillation import capture_features
from train.nano import autoencoder, block_removal, classifier, lcm_lora, metrics, scenes
from train.nano.base_unet import build

NANO = Path(__file__).resolve().parents[1] / "vega" / "nano"


@pytest.fixture(scope="module")
def tokenizers():
    return text_encoding.load_tokenizers(NANO)


@pytest.mark.parametrize("content", [b"cut short", save({"weight": torch.zeros(1)})], ids=["broken", "another model"])
def test_broken_classifier_file_is_named(tmp_path, content):
    file = tmp_path / classifier.WEIGHTS
    file.write_bytes(content)
    with pytest.raises(SystemExit, match=rf"{re.escape(str(file))}.*`python -m train.nano export`"):
        classifier.load(tmp_path)


def test_empty_prompt_ids_are_the_tokenizers(tokenizers):
    ids = text_encoding.tokenize(tokenizers, ["a lake"])
    for null, empty in zip(text_encoding.empty_prompt_ids(ids), text_encoding.tokenize(tokenizers, [""]), strict=True):
        assert torch.equal(null, empty)


def test_wide_autoencoder_is_the_same_function():
    torch.manual_seed(0)
    slim = autoencoder.build(autoencoder.NARROW_CHANNELS)
    wide = autoencoder.widen(slim)
    pixels = torch.rand(2, 3, 48, 64) * 2 - 1
    with torch.no_grad():
        assert tuple(wide.config.decoder_block_out_channels) == (64,) * 4
        torch.testing.assert_close(wide.encoder(pixels), slim.encoder(pixels), atol=1e-6, rtol=1e-5)
        z = slim.encoder(pixels)
        torch.testing.assert_close(wide.decoder(z), slim.decoder(z), atol=1e-5, rtol=1e-5)
    # The added channels can be learned: a step's gradient reaches the weights that will read them.
    wide.decoder(z).square().mean().backward()
    kernel = wide.decoder.layers[3].conv[0].weight
    learned = kernel.grad[: autoencoder.NARROW_CHANNELS, autoencoder.NARROW_CHANNELS :].abs().amax((2, 3)) > 0
    assert learned.float().mean() > 0.5


@pytest.mark.parametrize("shape", [(64, 64), (64, 576), (512, 128)])
def test_muon_keeps_directions_and_levels_their_strength(shape):
    torch.manual_seed(0)
    matrix = torch.randn(2, *shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    out = muon.orthogonalized(matrix)
    # In the basis of the matrix's own singular vectors the result is diagonal, with entries around 1.
    inside = u.mT @ out @ vh.mT
    diagonal = inside.diagonal(dim1=1, dim2=2)
    assert (inside - torch.diag_embed(diagonal)).abs().max() < 1e-6
    strong = s > 0.05 * s.max()
    assert diagonal[strong].min() > 0.5
    assert diagonal.max() < 1.4


def test_muon_leaves_first_and_last_layers_to_adamw():
    torch.manual_seed(0)
    vae = autoencoder.build(16)
    muon_group, rest = muon.Muon(vae, 1e-3, 1e-3).param_groups
    ids = {id(p) for p in muon_group["params"]}
    names = {n for n, p in vae.named_parameters() if id(p) in ids}
    assert "decoder.layers.3.conv.0.weight" in names
    assert "encoder.layers.0.weight" not in names
    assert len(muon_group["params"]) + len(rest["params"]) == len(list(vae.parameters()))


def test_trajectories_pass_every_timestep():
    torch.manual_seed(0)
    drawn = torch.stack([trajectories.start_timesteps(24) for _ in range(400)])
    assert (drawn == 999).float().mean() >= trajectories.PURE_NOISE_FRACTION
    points = torch.cat([drawn.flatten() - i * trajectories.DDIM_STEP_TIMESTEPS for i in range(10)])
    points = points[points > 0]
    assert len(points.unique()) == 999
    of_each_hundred = torch.histc(points.float(), 10, 0, 1000)
    assert of_each_hundred.min() > 0.5 * of_each_hundred.max()


def test_trajectories_from_noise_pass_every_timestep():
    """As evenly, though all of them start at the last one: a sampler asks at others than every hundredth."""
    torch.manual_seed(0)
    diffusion, clean, t = Diffusion(torch.device("cpu")), torch.zeros(12, 4, 1, 1), torch.full((12,), 999)

    def points() -> torch.Tensor:
        strides = trajectories.first_strides(12)
        return trajectories.ddim_trajectories(lambda x, t, image: x, diffusion, clean, t, strides)["t"]

    found = torch.cat([points() for _ in range(200)])
    assert found.unique().tolist() == list(range(1, 1000))
    of_each_hundred = torch.histc(found[found < 999].float(), 10, 0, 1000)
    assert of_each_hundred.min() > 0.9 * of_each_hundred.max()


def test_trajectory_takes_ddim_steps_of_diffusers():
    scheduler = DDIMScheduler(**NOISE_SCHEDULE, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(1000 // trajectories.DDIM_STEP_TIMESTEPS)
    torch.manual_seed(0)
    clean, t = torch.randn(7, 4, 8, 8), torch.tensor([30, 99, 101, 259, 499, 759, 999])

    def teacher(x, t, picture):
        return torch.tanh(x) + 0.001 * t[:, None, None, None]

    found = trajectories.ddim_trajectories(teacher, Diffusion(torch.device("cpu")), clean, t)
    for picture, start in enumerate(t.tolist()):
        mine = found["picture"] == picture
        assert found["t"][mine].tolist() == list(range(start, 0, -trajectories.DDIM_STEP_TIMESTEPS))
        seen, *later = found["x"][mine]
        for at, expected in zip(found["t"][mine], [*later, found["end"][picture]], strict=True):
            seen = scheduler.step(teacher(seen[None], at[None], None), at.item(), seen[None]).prev_sample[0]
            torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.model
def test_trajectories_end_where_guided_pipeline_does(tmp_path):
    """What the LCM-LoRA must learn is what vega-nano draws with guidance, DDIM and ten steps, from the same noise."""
    pipe = StableDiffusionXLPipeline.from_pretrained(NANO, add_watermarker=False, torch_dtype=torch.float32)
    pipe.scheduler = DDIMScheduler(**NOISE_SCHEDULE, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    prompts = [f"{time} over a lake" for time in ("night", "dawn", "sunset")] * 8
    ids = text_encoding.tokenize([pipe.tokenizer, pipe.tokenizer_2], prompts)
    sizes = torch.tensor([[64, 96, 0, 0, 64, 96]] * len(prompts))

    def get_batch(step, size):
        assert size == len(prompts)
        return torch.zeros(size, 4, 8, 12), ids, sizes

    encoders = text_encoding.load_encoders(NANO)
    cache = lcm_lora.TrajectoryCache(tmp_path, 1, pipe.unet, encoders, get_batch, seed=3)
    before = cache.files[0].read_bytes()
    x, t, end, (found, found_2), found_sizes = cache.sample(np.random.default_rng(0), 1000)
    assert torch.equal(found_sizes, sizes[:1].expand(len(t), 6))
    from_pure_noise = (t == 999).nonzero()[:, 0]
    assert len(from_pure_noise) == len(prompts) * trajectories.PURE_NOISE_FRACTION
    for i in from_pure_noise:
        row = next(j for j, prompt in enumerate(ids[0]) if torch.equal(prompt, found[i]))
        assert torch.equal(ids[1][row], found_2[i])
        expected = pipe(
            prompts[row],
            latents=x[i : i + 1],
            width=96,
            height=64,
            num_inference_steps=10,
            guidance_scale=1 + lcm_lora.GUIDANCE,
            output_type="latent",
        ).images[0]
        torch.testing.assert_close(end[i], expected, atol=2e-3, rtol=2e-3)
    # A file that is there is taken as it is; one that is lost is made again, the same.
    lcm_lora.TrajectoryCache(tmp_path, 1, pipe.unet, encoders, get_batch, seed=4)
    assert cache.files[0].read_bytes() == before
    cache.files[0].unlink()
    lcm_lora.TrajectoryCache(tmp_path, 1, pipe.unet, encoders, get_batch, seed=3)
    assert cache.files[0].read_bytes() == before
    cache.files[0].write_bytes(before[:1000])
    with pytest.raises(SystemExit, match=r"0\.safetensors is broken .* delete it"):
        cache.sample(np.random.default_rng(0), 1000)


@pytest.mark.model
def test_other_bases_work_is_not_resumed(tmp_path, tokenizers):
    ids = text_encoding.tokenize(tokenizers, ["night, desert, full moon"] * 24)

    def get_batch(step, size):
        return torch.zeros(size, 4, 4, 4), ids, torch.full((size, 6), 32)

    def distil(folder):
        return lcm_lora.distil(folder, tmp_path / "lora.safetensors", get_batch, 1, tmp_path / "work", rank=2)

    first = distil(NANO)
    assert distil(NANO) == first
    other = tmp_path / "other"
    for part in ("unet", "text_encoder", "text_encoder_2"):
        shutil.copytree(NANO / part, other / part)
    unet = load_unet(other / "unet")
    torch.nn.init.zeros_(unet.conv_out.weight)
    unet.save_pretrained(other / "unet")
    assert distil(other) != first
    assert distil(NANO) == first


@pytest.mark.model
def test_nano_is_distilled_as_it_was(tmp_path, tokenizers):
    """The losses of three steps as the code before this one has them: e97e6d1, with the shipped weights."""
    ids = text_encoding.tokenize(tokenizers, [f"{time} over a lake" for time in ("night", "dawn", "sunset")] * 2)

    def get_batch(step, size):
        latents = torch.randn(6, 4, 8, 12, generator=torch.Generator().manual_seed(step))
        return latents, ids, torch.tensor([[64, 96, 0, 0, 64, 96]] * 6)

    losses = lcm_lora.distil(NANO, tmp_path / "lora.safetensors", get_batch, 3, tmp_path / "work", rank=2)
    assert losses == pytest.approx([0.1971418, 0.1711237, 0.2103418], rel=1e-4)


def test_consistency_function_is_the_identity_at_its_boundary():
    c_skip, c_out = consistency.boundary_scalings(torch.tensor([0, 39, 999]))
    assert (c_skip[0].item(), c_out[0].item()) == (1.0, 0.0)
    from diffusers import LCMScheduler

    scheduler = LCMScheduler(**NOISE_SCHEDULE)
    for t, ours in zip((39, 999), zip(c_skip[1:], c_out[1:], strict=True), strict=True):
        theirs = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(t))
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs))


def test_timesteps_cover_the_schedule():
    torch.manual_seed(0)
    levels = torch.cat([stratified_timesteps(48) for _ in range(50)])
    assert levels.min() < 20
    assert levels.max() > 985
    assert (levels > 500).float().mean() > 0.55
    # Within a batch they are spread out, not drawn one by one.
    assert stratified_timesteps(48).sort().values.diff().max() < 120
    assert DDPMScheduler(**NOISE_SCHEDULE).config.num_train_timesteps == 1000


def test_frechet_distance_of_known_gaussians():
    torch.manual_seed(0)
    a = torch.randn(200_000, 3) @ torch.diag(torch.tensor([1.0, 2.0, 3.0]))
    b = torch.randn(200_000, 3) @ torch.diag(torch.tensor([2.0, 2.0, 1.0])) + torch.tensor([1.0, 0.0, -2.0])
    # With commuting covariances the distance is |difference of means|^2 + sum of (difference of deviations)^2.
    assert metrics.frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4, rel=0.02)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_accuracy_and_its_interval():
    torch.manual_seed(0)
    # 400 repetitions of an experiment whose true accuracy is 0.8: the interval holds it in about 95 % of them.
    inside = 0
    for _ in range(400):
        mean, margin = metrics.accuracy(torch.rand(512, 8) < 0.8)
        inside += abs(mean - 0.8) < margin
    assert 0.91 < inside / 400 < 0.985


def test_classifier_takes_any_size():
    model = classifier.AttributeClassifier().eval()
    for size in ((96, 192), (192, 96), (256, 256)):
        seen, features = classifier.classify(model, torch.zeros(2, 3, *size))
        assert seen.shape == (2, len(scenes.VALUES))
        assert features.shape == (2, classifier.FEATURES)


@pytest.mark.model
def test_teacher_and_pruned_unet_compute_the_same():
    torch.manual_seed(0)
    small = build()
    for p in small.parameters():
        p.data += 0.02 * torch.randn_like(p)
    large = block_removal.expand_with_zero_init(small)
    assert sum(p.numel() for p in large.parameters()) > 1.5 * sum(p.numel() for p in small.parameters())
    added = {"text_embeds": torch.randn(2, 64), "time_ids": torch.ones(2, 6)}
    x, context = torch.randn(2, 4, 12, 16), torch.randn(2, 77, 128)
    with torch.no_grad(), capture_features(large, block_removal.block_names(large)) as found:
        ours, theirs, back = (
            unet(x, 500, context, added_cond_kwargs=added).sample
            for unet in (small, large, block_removal.prune_blocks(large))
        )
    assert ours.std() > 0.1
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(back, ours, atol=0, rtol=0)
    # One output for each down block, the middle and each up block; hooks don't outlive the block.
    assert [f.shape[1] for f in found.values()] == [64, 64, 128, 128, 128, 64, 64]
    assert not any(m._forward_hooks for m in large.modules())
