"""What addresses Stable Diffusion 1.5's blocks by number, on small-sd and tiny-sd: diffusers' UNets and merges by hand."""

import functools
import re

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.sd
import comfy.t2i_adapter.adapter
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_model_merging import ModelMergeSimple
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from test_lora import ALPHA, RANK, check_merge, kohya, made_from, matrices, native_names, peft, weights_of, written
from transformers import CLIPTextModel
from vega_pack.vega import accelerate, checkpoint, lcm, lora, style_lora, unet

from dev import diffusers_folders as folders

pytestmark = pytest.mark.usefixtures("inference")
# Input blocks of SD 1.5 whose skip connections each small model still has: conv_in, then a residual block and a
# downsampler a level, of two residual blocks and a downsampler.
KEPT = {"small-sd": [0, 1, 3, 4, 6, 7, 9, 10], "tiny-sd": [0, 1, 3, 4, 6, 7]}
# The model's own output blocks and the SD 1.5 ones that they were.
UP = {"small-sd": [0, 2, 3, 5, 6, 8, 9, 11], "tiny-sd": [3, 5, 6, 8, 9, 11]}
each_small = pytest.mark.parametrize("family", KEPT)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """family -> (diffusers' modules, our MODEL, our CLIP)."""
    found = {}
    with torch.inference_mode():
        for family in [*KEPT, "SD 1.5"]:
            folder = tmp_path_factory.mktemp("model") / "model"
            modules = folders.write(folder, family)
            found[family] = modules, *checkpoint.load(folder, "tiny", [])[:2]
    return found


def randomized(module, scale=0.05):
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return module


def sd15_controlnet(width=64):
    """The host's ControlNet for a narrow Stable Diffusion 1.5, with random weights."""
    config = dict(image_size=32, in_channels=4, model_channels=width, hint_channels=3)
    config |= dict(num_res_blocks=[2] * 4, channel_mult=[1, 2, 4, 4])
    config |= dict(transformer_depth=[1] * 6 + [0] * 2, transformer_depth_middle=1, context_dim=64, num_heads=8)
    config |= dict(use_spatial_transformer=True, legacy=False, dtype=torch.float32, device="cpu")
    net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.disable_weight_init)
    return comfy.controlnet.ControlNet(randomized(net), load_device=torch.device("cpu"))


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


def test_sd_15_itself_and_a_controlnet_of_the_models_own_are_as_they_were(small):
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


def replacement(seen):
    def replace(q, k, v, extra_options):
        seen.append(extra_options["block"])
        return optimized_attention(q, k, v, heads=extra_options["n_heads"]) + 1.0

    return replace


# Every block of SD 1.5 with cross attention, as IPAdapter nodes name them.
ATTENTION = [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("middle", 0), ("middle", 1)]
ATTENTION += [("output", n) for n in range(3, 12)]


@each_small
def test_attention_replacements_for_sd_15_reach_the_blocks_that_are_left(small, family):
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


def attention(pairs):
    return {name: sides for name, sides in pairs.items() if re.search(r"attn|ff\.|proj_", name)}


def text_keys():
    generator = torch.Generator().manual_seed(5)
    mlp = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    down, up = torch.randn(RANK, 64, generator=generator), torch.randn(128, RANK, generator=generator)
    return {f"{mlp}.lora_down.weight": down, f"{mlp}.lora_up.weight": up, f"{mlp}.alpha": torch.tensor(ALPHA)}


STYLES = {
    "kohya": (lambda pairs: kohya(pairs)[0], ALPHA / RANK),
    "kohya, Stability's names": (lambda pairs: kohya(pairs, native_names("SD 1.5"))[0], ALPHA / RANK),
    "PEFT": (lambda pairs: peft(pairs, metadata=False)[0], 1.0),
}


@each_small
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("convolutions", [False, True])
def test_a_lora_of_sd_15_is_mapped(small, tmp_path, family, style, convolutions):
    modules, model, _ = small[family]
    pairs = matrices(folders.unet("SD 1.5"))
    pairs = pairs if convolutions else attention(pairs)
    write, scale = STYLES[style]
    path = written(tmp_path / "watercolour.safetensors", write(pairs))
    patched, _, sentence = style_lora.apply(model, None, path, 0.5, 1.0)
    targets = [n for n in matrices(modules["unet"]) if made_from(n, family) in pairs]
    expected = {name: pairs[made_from(name, family)] for name in targets}
    check_merge(model, patched, modules["unet"], expected, lambda name: 0.5 * scale)
    assert f"{len(targets)} of {len(pairs)} UNet modules" in sentence
    assert f"the other {len(pairs) - len(targets)} are for blocks that {family} with 64 channels leaves out" in sentence
    lora.sd15_blocks.check_patches(patched)


@each_small
@pytest.mark.parametrize("convolutions", [False, True])
def test_a_lora_of_the_models_own_stays_where_it_was_trained(small, tmp_path, family, convolutions):
    modules, model, _ = small[family]
    pairs = matrices(modules["unet"])
    pairs = pairs if convolutions else attention(pairs)
    path = written(tmp_path / "own.safetensors", kohya(pairs)[0])
    patched, _, sentence = style_lora.apply(model, None, path, 1.0, 1.0)
    check_merge(model, patched, modules["unet"], pairs, lambda name: ALPHA / RANK)
    assert f"{len(pairs)} of {len(pairs)} UNet modules" in sentence


def test_one_that_fits_both_is_asked_about(small, tmp_path):
    modules, model, _ = small["small-sd"]
    name = "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q"
    pairs = {name: matrices(modules["unet"])[name]}
    path = written(tmp_path / "part.safetensors", kohya(pairs)[0])
    with pytest.raises(ValueError, match="can't be told .* set made_for"):
        style_lora.apply(model, None, path, 1.0, 1.0)
    patched, _, _ = style_lora.apply(model, None, path, 1.0, 1.0, "this model")
    check_merge(model, patched, modules["unet"], pairs, lambda name: ALPHA / RANK)
    with pytest.raises(ValueError, match="only blocks of Stable Diffusion 1.5 that small-sd"):
        style_lora.apply(model, None, path, 1.0, 1.0, "Stable Diffusion 1.5")


def test_its_text_keys_reach_the_text_encoder(small, tmp_path):
    modules, model, clip = small["small-sd"]
    pairs = attention(matrices(folders.unet("SD 1.5")))
    path = written(tmp_path / "style.safetensors", kohya(pairs)[0] | text_keys())
    _, styled, sentence = style_lora.apply(model, clip, path, 1.0, 0.5)
    assert "1 modules of text encoders" in sentence
    encoder: CLIPTextModel = modules["text_encoder"]
    linear = next(m for n, m in encoder.named_modules() if n.endswith("layers.0.mlp.fc1"))
    _, down, up = None, *list(text_keys().values())[:2]
    linear.weight.data += 0.5 * ALPHA / RANK * up @ down
    ids = torch.tensor([[token for token, _ in styled.tokenize("a lake")["l"][0]]])
    got = styled.encode_from_tokens(styled.tokenize("a lake"))
    try:
        assert (got - encoder(ids).last_hidden_state).abs().max() < 1e-4
    finally:
        linear.weight.data -= 0.5 * ALPHA / RANK * up @ down
    assert "no clip is connected" in style_lora.apply(model, None, path, 1.0, 1.0)[2]


def test_a_text_encoders_lora_that_diffusers_saved_has_its_alpha(small, tmp_path):
    """Its alpha is in the file's metadata alone; the oracle is the encoder with PEFT's adapter in it."""
    _, model, clip = small["small-sd"]
    encoder = folders.modules("small-sd")["text_encoder"]
    with torch.inference_mode(False):
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        encoder.add_adapter(config)
        StableDiffusionPipeline.save_lora_weights(
            tmp_path,
            text_encoder_lora_layers=get_peft_model_state_dict(encoder),
            text_encoder_lora_adapter_metadata=config.to_dict() | {"target_modules": ["q_proj", "v_proj"]},
        )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    _, styled, _ = style_lora.apply(model, clip, path, 1.0, 1.0)
    tokens = styled.tokenize("a lake")
    ids = torch.tensor([[token for token, _ in tokens["l"][0]]])
    expected = encoder(ids).last_hidden_state
    plain = clip.encode_from_tokens(tokens)
    assert (styled.encode_from_tokens(tokens) - expected).abs().max() < 1e-4
    assert (plain - expected).abs().max() > 1e-2


def test_peft_keys_of_a_style_are_applied_whole_where_the_hosts_loader_drops_attention(tmp_path):
    """As peft and diffusers write them; the host's Load LoRA takes those of attention for others'."""
    with torch.inference_mode(False):
        reference = folders.unet("Segmind-Vega")
        reference.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        randomized(reference, 0.02)
        StableDiffusionXLPipeline.save_lora_weights(
            tmp_path, unet_lora_layers=get_peft_model_state_dict(reference), safe_serialization=True
        )
        pairs = {}
        for name, module in reference.named_modules():
            if hasattr(module, "lora_A"):
                pairs[name] = module.lora_A["default"].weight.detach(), module.lora_B["default"].weight.detach()
    folders.write(tmp_path / "model", "Segmind-Vega")
    model, _, _ = checkpoint.load(tmp_path / "model", "tiny", [])
    path = tmp_path / "pytorch_lora_weights.safetensors"
    patched, _, _ = style_lora.apply(model, None, path, 1.0, 1.0)
    check_merge(model, patched, folders.modules("Segmind-Vega")["unet"], pairs, lambda name: 1.0)


def test_a_style_of_another_base_is_refused(small, tmp_path):
    sdxl = written(tmp_path / "sdxl.safetensors", kohya(attention(matrices(folders.unet("SDXL"))))[0])
    for family, words in (
        ("small-sd", "fit neither small-sd"),
        ("SD 1.5", "are not in the model, which is Stable"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            style_lora.apply(small[family][1], None, sdxl, 1.0, 1.0)
        assert str(sdxl) in str(error.value)
    tensors = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 64)}
    path = written(tmp_path / "text.safetensors", tensors)
    with pytest.raises(ValueError, match="weights for text encoders are not for this model's"):
        style_lora.apply(*small["small-sd"][1:], path, 1.0, 1.0)


@each_small
def test_what_other_nodes_put_on_by_number_is_refused(small, tmp_path, family):
    """The host's Load LoRA, its bypass loader and LoRA hooks read SD 1.5's numbers as the model's own."""
    _, model, clip = small[family]
    tensors = kohya(matrices(folders.unet("SD 1.5")))[0]
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
    style = {k: v for k, v in kohya(matrices(folders.unet("SD 1.5")))[0].items() if "attn" in k}
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


@pytest.mark.parametrize("model_family", ["tiny-sd", "SD 1.5"])
def test_a_lora_made_for_a_relative_is_refused(small, tmp_path, model_family):
    """small-sd's attentions.1 was SD 1.5's attentions.2: by SD 1.5's names half of it would be in other blocks."""
    path = written(tmp_path / "own.safetensors", kohya(attention(matrices(folders.unet("small-sd"))))[0])
    with pytest.raises(ValueError, match="was made for small-sd, by its modules"):
        style_lora.apply(small[model_family][1], None, path, 1.0, 1.0)


@pytest.mark.parametrize(
    "damage", ["one matrix", "flat", "text: one matrix", "text: other width", "text: two alphas", "text: diff"]
)
def test_a_damaged_style_is_refused_in_a_sentence(small, tmp_path, damage):
    tensors = kohya(attention(matrices(folders.unet("SD 1.5"))))[0] | text_keys()
    key = next(k for k in tensors if k.endswith("lora_up.weight"))
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    if damage == "one matrix":
        del tensors[key]
    elif damage == "flat":
        tensors[key] = tensors[key][0]
    elif damage == "text: one matrix":
        del tensors[f"{text}.lora_down.weight"]
    elif damage == "text: other width":
        tensors |= {f"{text}.lora_down.weight": torch.ones(RANK, 96), f"{text}.lora_up.weight": torch.ones(384, RANK)}
    elif damage == "text: two alphas":
        tensors[f"{text}.alpha"] = torch.ones(2)
    else:
        tensors[f"{text}.diff"] = torch.ones(128, 64)
    path = written(tmp_path / "style.safetensors", tensors)
    with pytest.raises(ValueError) as error:
        style_lora.apply(*small["small-sd"][1:], path, 1.0, 1.0)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_second_few_step_lora_is_refused(small, tmp_path):
    _, model, _ = small["small-sd"]
    tensors = kohya(matrices(folders.unet("SD 1.5")))[0]
    lcm_lora = written(tmp_path / "lcm-lora-sdv1-5.safetensors", tensors)
    few_step = lora.apply(model, lcm_lora, 1.0)
    with pytest.raises(ValueError, match="is a few-step LoRA by its name, and the model has one already"):
        style_lora.apply(few_step, None, lcm_lora, 1.0, 1.0)
    # A style whose name has such a word adapts attention alone, and goes on before and after.
    style = written(tmp_path / "porsche_911_turbo.safetensors", {k: v for k, v in tensors.items() if "attn" in k})
    style_lora.apply(few_step, None, style, 1.0, 1.0)
    lora.apply(style_lora.apply(model, None, style, 1.0, 1.0)[0], lcm_lora, 1.0)
    as_style, _, _ = style_lora.apply(model, None, lcm_lora, 1.0, 1.0)
    with pytest.raises(ValueError, match="A few-step LoRA is on this model already"):
        lora.apply(as_style, lcm_lora, 1.0)


@each_small
def test_the_hosts_own_loader_knows_no_blocks(small, family):
    """It takes a file with the host's own names, as Save Checkpoint writes it, for an SD 1.5 of fewer blocks."""
    _, model, clip = small[family]
    plain = unet.SDShaped(model.model.model_config.unet_config)
    inner = comfy.model_base.BaseModel(plain, device="cpu")
    inner.diffusion_model.load_state_dict(model.model.diffusion_model.state_dict())
    loaded = comfy.model_patcher.ModelPatcher(inner, model.load_device, model.offload_device)
    loaded.add_object_patch("model_sampling", lcm.LCMSampling(plain))
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
    few_step.add_object_patch("model_sampling", lcm.LCMSampling(model.model.model_config))
    (with_own,) = ModelMergeSimple().merge(few_step, model, 0.5)
    (with_sd15,) = ModelMergeSimple().merge(few_step, small["SD 1.5"][1], 0.5)
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    lcm.sample(with_own, 0, 1, positive, latent, 1.0, disable_progress=True)
    sd15 = small["SD 1.5"][1].clone()
    sd15.add_object_patch("model_sampling", lcm.LCMSampling(sd15.model.model_config))
    (onto_sd15,) = ModelMergeSimple().merge(sd15, model, 0.5)
    for mixed in (with_sd15, onto_sd15):
        with pytest.raises(ValueError, match="merged with one of other blocks"):
            lcm.sample(mixed, 0, 1, positive, latent, 1.0, disable_progress=True)


def test_a_style_put_on_with_our_node_goes_through(small, tmp_path):
    _, model, clip = small["small-sd"]
    tensors = kohya(matrices(folders.unet("SD 1.5")))[0]
    lcm_lora = written(tmp_path / "lcm.safetensors", tensors)
    style = written(tmp_path / "style.safetensors", {k: v for k, v in tensors.items() if "attn" in k})
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    one, _, _ = style_lora.apply(lora.apply(model, lcm_lora, 1.0), None, style, 0.7, 1.0)
    before, _, _ = style_lora.apply(model, None, style, 0.7, 1.0)
    other = lora.apply(before, lcm_lora, 1.0)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    pictures = [lcm.sample(m, 0, 2, positive, latent, 1.0, disable_progress=True)["samples"] for m in (one, other)]
    assert torch.allclose(*pictures, atol=1e-4)
    weight = unet.diffusers_to_native(model.model.model_config.unet_config, model.model.diffusion_model.state_dict())
    key = weight["mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"]
    assert not torch.equal(weights_of(one)[key], weights_of(lora.apply(model, lcm_lora, 1.0))[key])
