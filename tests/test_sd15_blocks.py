"""What addresses Stable Diffusion 1.5's blocks by number, on small-sd and tiny-sd, against diffusers' UNets."""

import functools

import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.t2i_adapter.adapter
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelMergeSimple
from lora_files import kohya, matrices_of, written
from sd15 import KEPT, each_small, randomized, replacement, sd15_controlnet
from vega_pack.vega import accelerate, lcm, lora, model_sampling, unet

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
# The model's own output blocks and the SD 1.5 ones that they were.
UP = {"small-sd": [0, 2, 3, 5, 6, 8, 9, 11], "tiny-sd": [3, 5, 6, 8, 9, 11]}


def sd15_adapter(width=64):
    adapter = comfy.t2i_adapter.adapter.Adapter(
        cin=3 * 64, channels=[width, 2 * width, 4 * width, 4 * width], nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False
    )
    return comfy.controlnet.T2IAdapter(randomized(adapter), 3, 8, "nearest-exact", device=torch.device("cpu"))


def step(model, control):
    """(what the model predicts, what the oracle needs for it): one call, steered by what the host's control object gives."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(1, 4, 16, 24, generator=generator) * 3  # not square
    context, sigma = torch.randn(1, 77, 64, generator=generator), torch.tensor([2.0])
    inner = model.model
    control.set_cond_hint(torch.rand(1, 3, 128, 192, generator=generator), 0.8, (0.0, 1.0))
    control.pre_run(inner, inner.model_sampling.percent_to_sigma)
    steering = control.get_control(x, sigma, {"c_crossattn": context}, 1, {})
    given = {side: [None if r is None else r.clone() for r in residuals] for side, residuals in steering.items()}
    clean = inner.apply_model(x, sigma, c_crossattn=context, control=steering)
    noise = (x - clean) / sigma
    return noise, (x / (1 + sigma**2) ** 0.5, inner.model_sampling.timestep(sigma).float(), context), given


def close(got, expected):
    return (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@each_small
def test_a_controlnet_steers_the_blocks_that_are_left(small, family, caplog):
    modules, model, _ = small[family]
    got, (x, t, context), given = step(model, sd15_controlnet())
    assert len(given["output"]) == 12
    down = [given["output"][number] for number in KEPT[family]]
    middle = given["middle"][0] if family == "small-sd" else torch.zeros(1)  # tiny-sd has no middle block
    expected = modules["unet"](
        x, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle
    ).sample
    assert close(got, expected)
    assert not close(got, modules["unet"](x, t, context).sample)
    assert "could not be applied" not in caplog.text


@each_small
def test_a_t2i_adapter_steers_each_level_that_is_left(small, family, caplog):
    modules, model, _ = small[family]
    got, (x, t, context), given = step(model, sd15_adapter())
    features = [feature for feature in given["input"][::-1] if feature is not None]
    assert len(features) == 4
    expected = modules["unet"](x, t, context, down_intrablock_additional_residuals=features).sample
    assert close(got, expected)
    assert not close(got, modules["unet"](x, t, context).sample)
    assert "could not be applied" not in caplog.text


def test_sd_15_and_own_controlnets_are_as_they_were(small):
    """SD 1.5 itself, and a ControlNet of the model's own blocks, are as in diffusers."""
    modules, model, _ = small["SD 1.5"]
    got, (x, t, context), given = step(model, sd15_controlnet())
    expected = modules["unet"](
        x, t, context, down_block_additional_residuals=given["output"], mid_block_additional_residual=given["middle"][0]
    ).sample
    assert close(got, expected)
    modules, model, _ = small["small-sd"]
    got, (x, t, context), given = step(model, sd15_controlnet())
    own = [given["output"][number] for number in KEPT["small-sd"]]
    clean = model.model.apply_model(
        x * 5**0.5, torch.tensor([2.0]), c_crossattn=context, control={"output": [r.clone() for r in own]}
    )
    expected = modules["unet"](
        x, t, context, down_block_additional_residuals=own, mid_block_additional_residual=torch.zeros(1)
    ).sample
    assert close((x * 5**0.5 - clean) / 2, expected)


def test_a_controlnet_of_another_family_is_refused(small):
    _, model, _ = small["small-sd"]
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="steers 9 blocks; this model has 8 of the 12"):
        model.model.apply_model(x, torch.ones(1), c_crossattn=torch.zeros(1, 77, 64), control={"output": [None] * 9})


# Every block of SD 1.5 with cross attention, as IPAdapter nodes name them.
ATTENTION = [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("middle", 0), ("middle", 1)]
ATTENTION += [("output", n) for n in range(3, 12)]


@each_small
def test_attention_replacements_reach_their_blocks(small, family):
    """Each block gets the replacement that was made for the block of SD 1.5 that it was."""
    _, model, _ = small[family]
    patched, seen = model.clone(), {}
    for side, number in ATTENTION:
        seen[side, number] = []
        patched.set_model_attn2_replace(replacement(seen[side, number]), side, number)
    options = patched.model_options["transformer_options"]
    context = torch.zeros(1, 77, 64)
    model.model.apply_model(torch.ones(1, 4, 8, 8), torch.ones(1), c_crossattn=context, transformer_options=options)
    reached = {place: blocks[0] for place, blocks in seen.items() if blocks}
    expected = {("input", n): ("input", KEPT[family].index(n)) for n in (1, 4, 7)}
    expected |= {("output", n): ("output", own) for own, n in enumerate(UP[family]) if n >= 3}
    expected |= {("middle", 0): ("middle", 0)} if family == "small-sd" else {}
    assert reached == expected


def test_one_attention_replacement_is_by_sd_15s_number_too(small):
    _, model, _ = small["small-sd"]
    context = torch.zeros(1, 77, 64)

    def run(side, number):
        patched, seen = model.clone(), []
        patched.set_model_attn2_replace(replacement(seen), side, number)
        options = patched.model_options["transformer_options"]
        model.model.apply_model(torch.ones(1, 4, 8, 8), torch.ones(1), c_crossattn=context, transformer_options=options)
        return seen

    assert run("output", 5) == [("output", 3)]
    for left_out in (("output", 4), ("output", 12)):
        with pytest.raises(ValueError, match="only in blocks of Stable Diffusion 1.5 that this model leaves out"):
            run(*left_out)


@each_small
def test_what_other_nodes_put_on_by_number_is_refused(small, tmp_path, family):
    """The host's Load LoRA, its bypass loader and LoRA hooks read SD 1.5's numbers as the model's own."""
    _, model, clip = small[family]
    tensors = kohya(matrices_of("SD 1.5"))[0]
    style = {key: tensor for key, tensor in tensors.items() if "attn" in key}
    lcm_lora = written(tmp_path / "lcm.safetensors", tensors)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    by_host, _ = comfy.sd.load_lora_for_models(model, None, style, 1.0, 0.0)
    with pytest.raises(ValueError, match="Load LoRA .Vega."):
        lora.apply(by_host, lcm_lora, 1.0)
    few_step = lora.apply(model, lcm_lora, 1.0)
    lcm.sample(few_step, 0, 1, positive, latent, 1.0, disable_progress=True)
    after, _ = comfy.sd.load_lora_for_models(few_step, None, style, 1.0, 0.0)
    bypassed, _ = comfy.sd.load_bypass_lora_for_models(few_step, None, style, 1.0, 0.0)
    with pytest.raises(ValueError, match="in the wrong blocks"):
        accelerate.apply(after, "auto")
    for wrong in (after, bypassed):
        with pytest.raises(ValueError, match="in the wrong blocks. Use `Load LoRA"):
            lcm.sample(wrong, 0, 1, positive, latent, 1.0, disable_progress=True)
    hooks = comfy.hooks.create_hook_lora(style, 1.0, 0.0)
    hooked = [[positive[0][0], positive[0][1] | {"hooks": hooks}]]
    control = comfy.controlnet.ControlLora({})
    by_control = [[positive[0][0], positive[0][1] | {"control": control}]]
    for wrong, words in ((hooked, "a LoRA hook"), (by_control, "a Control-LoRA")):
        with pytest.raises(ValueError, match=words):
            lcm.sample(few_step, 0, 1, wrong, latent, 1.0, disable_progress=True)


def test_the_hosts_sampler_refuses_it_as_well(small):
    """Nothing of ours is between the host's Load LoRA and its KSampler, but the model that Load Vega gave."""
    _, model, clip = small["tiny-sd"]
    style = {k: v for k, v in kohya(matrices_of("SD 1.5"))[0].items() if "attn" in k}
    styled, _ = comfy.sd.load_lora_for_models(model, None, style, 1.0, 0.0)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    empty = torch.zeros(1, 4, 8, 8)
    draw = functools.partial(
        comfy.sample.sample, noise=empty + 1, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal", disable_pbar=True
    )
    with pytest.raises(ValueError, match="in the wrong blocks. Use `Load LoRA"):
        draw(styled, positive=positive, negative=positive, latent_image=empty)
    hooked = [[positive[0][0], positive[0][1] | {"hooks": comfy.hooks.create_hook_lora(style, 1.0, 0.0)}]]
    with pytest.raises(ValueError, match="a LoRA hook doesn't know which"):
        draw(model, positive=hooked, negative=positive, latent_image=empty)
    assert draw(model, positive=positive, negative=positive, latent_image=empty).isfinite().all()


@each_small
def test_the_hosts_own_loader_knows_no_blocks(small, family):
    """It takes a file with the host's own names, as Save Checkpoint writes it, for an SD 1.5 of fewer blocks."""
    _, model, clip = small[family]
    plain = unet.SDShaped(model.model.model_config.unet_config)
    inner = comfy.model_base.BaseModel(plain, device="cpu")
    inner.diffusion_model.load_state_dict(model.model.diffusion_model.state_dict())
    loaded = comfy.model_patcher.ModelPatcher(inner, model.load_device, model.offload_device)
    loaded.add_object_patch("model_sampling", model_sampling.LCMSampling(plain))
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    lcm.sample(loaded, 0, 1, positive, latent, 1.0, disable_progress=True)
    steered = [[positive[0][0], positive[0][1] | {"control": sd15_controlnet()}]]
    with pytest.raises(ValueError, match="load the model with Load Vega"):
        lcm.sample(loaded, 0, 1, steered, latent, 1.0, disable_progress=True)
    loaded.set_model_attn2_replace(replacement([]), "output", 5)
    with pytest.raises(ValueError, match="load the model with Load Vega"):
        lcm.sample(loaded, 0, 1, positive, latent, 1.0, disable_progress=True)


def test_a_merge_with_a_model_of_other_blocks_is_refused(small):
    _, model, clip = small["small-sd"]
    few_step = model.clone()
    few_step.add_object_patch("model_sampling", model_sampling.LCMSampling(model.model.model_config))
    (with_own,) = ModelMergeSimple().merge(few_step, model, 0.5)
    (with_sd15,) = ModelMergeSimple().merge(few_step, small["SD 1.5"][1], 0.5)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    lcm.sample(with_own, 0, 1, positive, latent, 1.0, disable_progress=True)
    sd15 = small["SD 1.5"][1].clone()
    sd15.add_object_patch("model_sampling", model_sampling.LCMSampling(sd15.model.model_config))
    (onto_sd15,) = ModelMergeSimple().merge(sd15, model, 0.5)
    for mixed in (with_sd15, onto_sd15):
        with pytest.raises(ValueError, match="merged with one of other blocks"):
            lcm.sample(mixed, 0, 1, positive, latent, 1.0, disable_progress=True)
