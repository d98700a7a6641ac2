"""What people do with a MODEL, CLIP, VAE and LATENT in the host keeps working on ours."""

from pathlib import Path

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_model_merging import CheckpointSave, ModelMergeSimple
from diffusers import AutoencoderTiny, StableDiffusionXLPipeline
from lcm_drawing import draw, empty
from safetensors.torch import save_file
from vega_pack.nodes.tiny_vae_decode import VegaTinyVAEDecode
from vega_pack.vega import checkpoint, lcm, model_sampling

import nodes as host_nodes
from dev import diffusers_folders as folders

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]
NANO_DIR = Path(checkpoint.NANO_DIR)
SCALE = 0.13025


def test_cores_vae_nodes_on_our_vae(nano):
    vae = nano[2]
    reference = AutoencoderTiny.from_pretrained(NANO_DIR / "vae", torch_dtype=torch.float32)
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


def test_a_core_lora_with_text_encoder_keys_reaches_both(nano, few_step, positive):
    model, clip, _ = nano
    mlp = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    style = {f"{mlp}.lora_down.weight": torch.randn(4, 64), f"{mlp}.lora_up.weight": torch.randn(256, 4)}
    name = "lora_unet_mid_block_resnets_0_conv1"
    style |= {f"{name}.lora_down.weight": torch.randn(4, 128, 3, 3), f"{name}.lora_up.weight": torch.randn(128, 4, 1, 1)}
    styled, styled_clip = comfy.sd.load_lora_for_models(few_step, clip, style, 0.5, 0.5)
    assert len(styled.patches) == len(few_step.patches)  # the one module has both
    changed = styled_clip.encode_from_tokens_scheduled(styled_clip.tokenize("night, desert, full moon"))
    assert (changed[0][0] - positive[0][0]).abs().max() > 1e-2
    again = clip.encode_from_tokens_scheduled(clip.tokenize("night, desert, full moon"))
    assert torch.equal(again[0][0], positive[0][0])
    assert not torch.allclose(draw(styled, positive, empty()), draw(few_step, positive, empty()), atol=1e-3)
    assert not torch.allclose(draw(styled, changed, empty()), draw(styled, positive, empty()), atol=1e-3)


def test_an_attention_patch_reaches_every_block_it_is_for(few_step, positive):
    """How IPAdapter nodes work: the cross attention of a block is replaced by theirs."""
    seen = []

    def replacement(q, k, v, extra_options):
        seen.append(extra_options["block"])
        heads = extra_options["n_heads"]
        return optimized_attention(q, k, v, heads=heads) + 1.0

    patched = few_step.clone()
    for block in ("input", "output"):
        for number in range(9):
            patched.set_model_attn2_replace(replacement, block, number)
    plain, out = draw(few_step, positive, empty(), steps=1), draw(patched, positive, empty(), steps=1)
    attending = [("input", n) for n in (4, 5, 7, 8)] + [("output", n) for n in range(6)]
    assert sorted(seen) == sorted(attending)
    assert not torch.allclose(plain, out, atol=1e-3)
    assert torch.equal(draw(few_step, positive, empty(), steps=1), plain)


def test_freeu_reaches_the_blocks_of_its_widths(tmp_path):
    folders.write(tmp_path / "model", "Segmind-Vega")
    model, clip, _ = checkpoint.load(tmp_path / "model", "tiny", [])
    model.add_object_patch("model_sampling", model_sampling.LCMSampling(model.model.model_config))
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("a lake"))
    (freed,) = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args
    plain, out = draw(model, prompt, empty(), steps=1), draw(freed, prompt, empty(), steps=1)
    assert out.isfinite().all()
    assert not torch.allclose(plain, out, atol=1e-4)


def test_clip_set_last_layer_takes_an_earlier_layer(nano):
    """With SDXL's encoders the layer before the last is the rule; -1 takes the last."""
    pipe = StableDiffusionXLPipeline.from_pretrained(NANO_DIR, unet=None, vae=None, torch_dtype=torch.float32)
    hidden = []
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        ids = tokenizer("night", padding="max_length", max_length=77, return_tensors="pt").input_ids
        hidden.append(encoder(ids, output_hidden_states=True).hidden_states)
    clip = nano[1]
    for layer in (-1, -2, -3):
        (skipped,) = host_nodes.CLIPSetLastLayer().set_last_layer(clip, layer)
        context, _ = skipped.encode_from_tokens(skipped.tokenize("night"), return_pooled=True)
        assert (context - torch.cat([h[layer] for h in hidden], dim=-1)).abs().max() < 1e-4


def test_an_embedding_file_stands_for_its_vectors(tmp_path):
    """embedding:name puts a file's vectors where the name is: here those of a word, so the word itself is the oracle."""
    (_, clip, _) = checkpoint.load(NANO_DIR, "tiny", [str(tmp_path)])
    token = clip.tokenize("desert")["l"][0][1][0]
    vectors = {}
    for side in ("l", "g"):
        encoder = getattr(clip.cond_stage_model, f"clip_{side}").transformer.text_model
        vectors[f"clip_{side}"] = encoder.embeddings.token_embedding.weight[token][None].clone()
    save_file(vectors, tmp_path / "dunes.safetensors")
    contexts = [
        clip.encode_from_tokens(clip.tokenize(f"night, {word}, moon")) for word in ("desert", "embedding:dunes", "sea")
    ]
    assert torch.allclose(contexts[0], contexts[1], atol=1e-6)
    assert (contexts[0] - contexts[2]).abs().max() > 0.1


@pytest.mark.parametrize("form", ["vega-nano", "small-sd", "tiny-sd"])
def test_a_merge_saved_by_core_loads_back_the_same(tmp_path, form):
    """ModelMergeSimple and CheckpointSave; core itself cannot load any of these files."""
    folder = NANO_DIR
    if form != "vega-nano":
        folder = tmp_path / "model"
        folders.write(folder, form)
    model, clip, vae = checkpoint.load(folder, "tiny", [])
    before = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    other, _, _ = checkpoint.load(folder, "tiny", [])
    other = other.clone()
    key = "diffusion_model.out.2.bias"
    other.add_patches({key: (torch.ones(4),)}, 1.0)
    (merged,) = ModelMergeSimple().merge(model, other, 0.25)
    saver = CheckpointSave()
    saver.output_dir = str(tmp_path)
    saver.save(merged, clip, vae, "merge")
    (file,) = tmp_path.glob("merge*.safetensors")
    loaded, loaded_clip, loaded_vae = checkpoint.load(file, "tiny", [])
    after = loaded.model.diffusion_model.state_dict()
    assert before.keys() == after.keys()
    assert torch.allclose(after["out.2.bias"].float(), before["out.2.bias"].float() + 0.75, atol=1e-3)
    assert all(torch.equal(before[k].half(), after[k].half()) for k in before if k != "out.2.bias")
    text = "night, desert"
    one, two = (c.encode_from_tokens(c.tokenize(text), return_pooled=True) for c in (clip, loaded_clip))
    assert torch.allclose(one[0], two[0], atol=1e-5)
    assert form != "vega-nano" or torch.allclose(one[1], two[1], atol=1e-5)
    latents = torch.randn(1, 4, 8, 8)
    assert torch.equal(vae.decode(latents), loaded_vae.decode(latents))


def test_cores_tiled_decode_on_our_vae(nano):
    latents = torch.randn(1, 4, 40, 40)
    (tiled,) = host_nodes.VAEDecodeTiled().decode(nano[2], {"samples": latents}, 192, 96)
    whole = nano[2].decode(latents)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.01  # tiles see less around them than the whole


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


def test_latents_of_one_family_are_not_decoded_as_the_others(nano, few_step, positive, tmp_path):
    folders.write(tmp_path / "model", "tiny-sd")
    _, _, other = checkpoint.load(tmp_path / "model", "tiny", [])
    latent = lcm.sample(few_step, 0, 1, positive, empty(), 1.0, disable_progress=True)
    with pytest.raises(ValueError, match=r"decodes SD 1\.5 latents, .* SDXL family"):
        VegaTinyVAEDecode.execute(latent, other)
    assert VegaTinyVAEDecode.execute(latent, nano[2])[0].shape == (1, 128, 128, 3)
    assert VegaTinyVAEDecode.execute(empty(), other)[0].shape == (1, 128, 128, 3)  # a latent of unknown origin


def test_the_model_that_came_in_is_unchanged(nano, few_step):
    assert model_sampling.carried_recipe(nano[0]) is None
    assert not nano[0].patches
    assert len(few_step.patches) > 100
