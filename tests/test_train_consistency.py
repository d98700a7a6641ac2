"""Steps of latent consistency distillation against the same arithmetic from public classes of diffusers, peft and torch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from distilled_loras import EVERY
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn

from dev import diffusers_folders
from train import adapters, consistency, score_card
from train.base import NANO_LCM_LORA, open_base
from train.consistency import consistency_loss, solver_steps
from train.denoising import Batch
from train.diffusion import Diffusion
from train.guidance import unconditional_text
from train.optimization import make_optimizer, schedule
from train.training_loop import train

RANK, ALPHA, RATE, STEPS = 4, 2.0, 1e-2, 2
SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DEVICE = torch.device("cpu")


def solver() -> DDIMScheduler:
    scheduler = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(50)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


def test_the_grid_is_that_of_ddim():
    """All fifty steps: where each begins and ends, how often timesteps in 0..999 fall on it, and what it computes."""
    scheduler = solver()
    starts, ends = solver_steps(torch.arange(1000))
    assert starts.unique().tolist() == sorted(scheduler.timesteps.tolist())
    assert torch.bincount(starts)[starts.unique()].tolist() == [20] * 50
    assert ends.tolist() == [max(0, start - 20) for start in starts.tolist()]
    diffusion, generator = Diffusion(DEVICE), torch.Generator().manual_seed(0)
    x, epsilon = (torch.randn(50, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    t, next_t = solver_steps(scheduler.timesteps)
    assert t.tolist() == scheduler.timesteps.tolist()
    found = diffusion.add_noise(diffusion.pred_original_sample(x, epsilon, t), epsilon, next_t)
    for k, start in enumerate(t.tolist()):
        expected = scheduler.step(epsilon[k], start, x[k]).prev_sample
        torch.testing.assert_close(found[k], expected, atol=1e-12, rtol=1e-12)


def batches(config, count: int) -> list[tuple[Batch, torch.Tensor]]:
    """Batches of two with the guidance w of each; the first one has the solver's last step, to t = 0."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = []
    for k in range(count):
        pooled = normal(2, 64) if config.addition_embed_type else None
        time_ids = torch.tensor([[64, 96, 0, 8 * k, 64, 64], [99, 77, 4, 0, 64, 64]])
        timesteps = torch.tensor([[7, 999], [19, 500], [340, 21]][k])
        text = normal(2, 7, config.cross_attention_dim), pooled
        batch = Batch(normal(2, 4, 8, 8), normal(2, 4, 8, 8), timesteps, text, time_ids)
        found.append((batch, torch.tensor([7.5, 3.0 + k], dtype=torch.float64)))
    return found


def texts(config):
    """The encoded empty prompt."""
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(1, 7, config.cross_attention_dim, generator=generator, dtype=torch.float64)
    pooled = torch.randn(1, 64, generator=generator, dtype=torch.float64) if config.addition_embed_type else None
    return lambda captions: (
        context.expand(len(captions), -1, -1),
        None if pooled is None else pooled.expand(len(captions), -1),
    )


def oracle(unet, data, zeros: bool, loss_type: str):
    """diffusers' train_lcm_distill_lora_sdxl_wds.py, with a UNet of its own for the teacher, step by step."""
    teacher, scheduler, lcm = copy.deepcopy(unet), solver(), LCMScheduler(**SCHEDULE)
    torch.manual_seed(0)
    student = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=EVERY), unet)
    learned = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    losses, targets = [], []
    for batch, w in data:
        context, pooled = batch.text
        empty, empty_pooled = texts(unet.config)(["", ""])
        if zeros:
            empty, empty_pooled = torch.zeros_like(empty), None if pooled is None else torch.zeros_like(empty_pooled)

        def predict(model, x, t, context, pooled, sizes):
            added = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
            return model(x, t, context, added_cond_kwargs=added).sample

        def consistency_function(x, t, context, pooled, sizes):
            c_skip, c_out = lcm.get_scalings_for_boundary_condition_discrete(t)
            noise = predict(student, x, torch.tensor([t]), context, pooled, sizes)
            alpha = scheduler.alphas_cumprod[t]
            return c_skip * x + c_out * (x - (1 - alpha) ** 0.5 * noise) / alpha**0.5

        outs, ends = [], []
        for k in range(2):
            row = slice(k, k + 1)
            of_row = context[row], None if pooled is None else pooled[row], batch.time_ids[row]
            start = max(t for t in scheduler.timesteps.tolist() if t - 20 < batch.timesteps[k] <= t)
            noisy = scheduler.add_noise(batch.latents[row], batch.noise[row], torch.tensor([start]))
            with torch.no_grad():
                both = torch.cat([empty[row], context[row]])
                pools = None if pooled is None else torch.cat([empty_pooled[row], pooled[row]])
                sizes = torch.cat([batch.time_ids[row]] * 2)
                without, with_text = predict(teacher, torch.cat([noisy] * 2), start, both, pools, sizes).chunk(2)
                guided = without + (1 + w[k]) * (with_text - without)
                x = scheduler.step(guided, start, noisy).prev_sample
                ends.append(consistency_function(x, max(0, start - 20), *of_row))
            outs.append(consistency_function(noisy, start, *of_row))
        out, target = torch.cat(outs), torch.cat(ends)
        if loss_type == "huber":
            loss = torch.mean(torch.sqrt((out - target) ** 2 + 0.001**2) - 0.001)
        else:
            loss = F.mse_loss(out, target, reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        targets.append(target)
    return get_peft_model_state_dict(student), losses, targets


def ours(unet, data, zeros: bool, loss_type: str, folder):
    torch.manual_seed(0)
    groups = [{"params": adapters.add_lcm_lora(unet, RANK, ALPHA), "lr": RATE}]
    diffusion, targets = Diffusion(DEVICE), []

    def compute_loss(number: int) -> torch.Tensor:
        batch, w = data[number]
        unconditional = unconditional_text(texts(unet.config), 2, zeros)

        def loss(out, target):
            targets.append(target)
            return consistency.LOSSES[loss_type](out, target)

        return consistency_loss(unet, diffusion, batch, unconditional, w, loss)

    learned, optimizer = nn.ParameterList(groups[0]["params"]), make_optimizer(groups)
    losses = train(learned, compute_loss, optimizer, schedule("constant", len(data)), folder, len(data))
    return get_peft_model_state_dict(unet), losses, targets


@pytest.mark.model
@pytest.mark.parametrize(
    ("family", "zeros", "loss_type"),
    [("Segmind-Vega", True, "huber"), ("SD 1.5", False, "l2")]
    + [pytest.param(*case, marks=pytest.mark.soak) for case in (("Segmind-Vega", False, "l2"), ("SD 1.5", True, "huber"))],
)
def test_steps_are_those_of_diffusers(tmp_path, family, zeros, loss_type):
    """Targets, losses and every weight, in float64."""
    unet = diffusers_folders.modules(family)["unet"].double().requires_grad_(False)
    data = batches(unet.config, STEPS)
    expected, losses, targets = oracle(copy.deepcopy(unet), data, zeros, loss_type)
    found, our_losses, our_targets = ours(unet, data, zeros, loss_type, tmp_path)
    for target, our_target in zip(targets, our_targets, strict=True):
        assert (target - our_target).abs().max() < 1e-9
    assert our_losses == pytest.approx(losses, rel=1e-9)
    assert found.keys() == expected.keys()
    moved = [found[key].abs().max() > 1e-4 for key in found if "lora_B" in key]
    assert sum(moved) > 0.9 * len(moved)
    for key in expected:
        assert (found[key] - expected[key]).abs().max() < 1e-9, key


@pytest.mark.model
@pytest.mark.parametrize("family", ["Segmind-Vega", "SD 1.5"])
def test_the_teachers_step_is_the_pipelines(family):
    """The first of fifty guided steps of diffusers' own pipeline, from pure noise; with zeros as SDXL has it."""
    unet = diffusers_folders.modules(family)["unet"].double().requires_grad_(False)
    batch, w = batches(unet.config, 1)[0]
    batch, w, is_xl = batch._replace(timesteps=torch.tensor([999, 999])), torch.full((2,), 4.0), family != "SD 1.5"
    context, pooled = unconditional_text(texts(unet.config), 2, is_xl)
    parts = dict(vae=diffusers_folders.full_autoencoder(), unet=unet, scheduler=solver(), text_encoder=None, tokenizer=None)
    given = {"prompt_embeds": batch.text[0], "negative_prompt_embeds": context}
    if is_xl:
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
        given |= {"pooled_prompt_embeds": batch.text[1], "negative_pooled_prompt_embeds": pooled}
        batch = batch._replace(time_ids=torch.tensor([[64, 64, 0, 0, 64, 64]] * 2))
    else:
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    after = []

    def stop(pipe, step, timestep, callback_kwargs):
        after.append(callback_kwargs["latents"])
        pipe._interrupt = True  # the way that diffusers' guide to callbacks gives
        return callback_kwargs

    pipe.set_progress_bar_config(disable=True)
    options = dict(num_inference_steps=50, guidance_scale=5.0, height=64, width=64, output_type="latent")
    pipe(**given, latents=batch.noise, callback_on_step_end=stop, **options)
    adapters.add_lcm_lora(unet, RANK, ALPHA)
    seen, diffusion = [], Diffusion(DEVICE)
    # Pure noise of the pipeline is not quite what noised latents are at t = 999: these latents make it so.
    a, s = diffusion.coefficients(batch.timesteps, torch.float64)
    batch = batch._replace(latents=(batch.noise - s * batch.noise) / a)
    consistency_loss(unet, diffusion, batch, (context, pooled), w, lambda out, target: seen.append(target) or target.sum())
    expected = consistency.predict_clean(unet, diffusion, after[0], torch.tensor([979, 979]), batch.text, batch.time_ids)
    torch.testing.assert_close(seen[0], expected.detach(), atol=1e-6, rtol=1e-6)


@pytest.mark.model
def test_an_untrained_lora_is_the_base():
    """To the last bit: the adapter adds zero, and what is disabled is there again afterwards."""
    unet = diffusers_folders.modules("SD 1.5")["unet"].requires_grad_(False)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 7, unet.config.cross_attention_dim)
    with torch.no_grad():
        before = unet(x, 500, context).sample
        learned = adapters.add_lcm_lora(unet, RANK, ALPHA)
        assert torch.equal(unet(x, 500, context).sample, before)
        for parameter in learned:
            parameter.normal_(0, 0.1)
        changed = unet(x, 500, context).sample
        assert not torch.equal(changed, before)
        with adapters.disable_adapters(unet):
            assert torch.equal(unet(x, 500, context).sample, before)
        assert torch.equal(unet(x, 500, context).sample, changed)
    assert all(parameter.requires_grad for parameter in learned)


@pytest.mark.model
def test_a_lora_begins_with_the_weights_of_a_file():
    """As diffusers reads the same file."""
    base = open_base("vega-nano")
    ours, theirs = base.unet(), base.unet()
    adapters.add_lcm_lora(ours, 32, 32)
    with torch.no_grad():
        adapters.load_unet_weights(ours, NANO_LCM_LORA)
    tensors, alphas = StableDiffusionXLPipeline.lora_state_dict(NANO_LCM_LORA, unet_config=theirs.config)
    StableDiffusionXLPipeline.load_lora_into_unet(tensors, alphas, theirs)
    added = {"text_embeds": torch.randn(1, 64), "time_ids": torch.full((1, 6), 128.0)}
    given = torch.randn(1, 4, 8, 8), 500, torch.randn(1, 7, ours.config.cross_attention_dim)
    with torch.no_grad():
        found, expected = (unet(*given, added_cond_kwargs=added).sample for unet in (ours, theirs))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_some_prompts_are_kept_apart():
    """The same ones where others are added, at most one of eight, and each caption whole."""
    many = [f"a lake, {k}" for k in range(200)]
    kept = score_card.held_out(many * 3, 16)
    assert len(set(kept)) == 16
    assert set(kept) <= set(many)
    assert score_card.held_out(many[::-1], 16) == kept
    assert len(set(kept) & set(score_card.held_out([*many, "the sea"], 16))) >= 15
    assert len(score_card.held_out(many[:20], 16)) == 2
    assert score_card.held_out(many[:7], 16) == []
    assert score_card.held_out(many, 0) == []
