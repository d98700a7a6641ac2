"""Text and pictures on a real GPU: in fp16, in the memory that was asked for, and in tiles when there is none."""

import comfy.model_management
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionXLPipeline
from vega_pack.vega import checkpoint, tiny_decoder


def latents(side, batch=1):
    """As large as those of real pictures."""
    return torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(0)) * 8


@pytest.mark.parametrize("side", [64, 128])
def test_half_precision_is_within_a_level_of_fp32(nano, side):
    vae = nano[2]
    assert vae.vae_dtype == torch.float16
    reference = AutoencoderTiny.from_pretrained(checkpoint.NANO_DIR / "vae", torch_dtype=torch.float32).cuda()
    samples = latents(side) / 8
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected = reference.decode(samples.cuda() * 0.13025).sample
    expected = (expected / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu()
    drawn = tiny_decoder.decode(vae, samples)
    assert drawn.device.type == "cpu"
    assert ((255 * drawn).round() - (255 * expected).round()).abs().max() <= 1


def test_a_picture_takes_the_memory_that_is_asked_for(nano):
    vae, samples = nano[2], latents(128)
    tiny_decoder.decode(vae, samples)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    tiny_decoder.decode_whole(vae, samples)
    taken = torch.cuda.max_memory_allocated() - before
    assert taken <= tiny_decoder.memory_needed([1, 128, 128], torch.float16) <= 2 * taken


@pytest.mark.parametrize("side", [256, 512])
def test_large_pictures_in_little_memory(nano, side):
    """2048 and 4096 pixels with memory for 1024, on this card made small: the same picture, in tiles."""
    vae, samples = nano[2], latents(side)
    expected = tiny_decoder.decode(vae, samples)
    comfy.model_management.soft_empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + tiny_decoder.memory_needed([1, 200, 200], torch.float16)
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        drawn = tiny_decoder.decode(vae, samples)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    # cuDNN may take other kernels for other sizes, and fp16 rounds otherwise in them.
    assert ((255 * drawn).round() - (255 * expected).round()).abs().max() <= 1


def test_text_encoders_compute_in_fp16_as_diffusers_does(nano):
    clip, text = nano[1], "a pink dawn over pine trees with a calm lake"
    pipe = StableDiffusionXLPipeline.from_pretrained(checkpoint.NANO_DIR, unet=None, vae=None, torch_dtype=torch.float16).to(
        "cuda"
    )
    expected, _, expected_pooled, _ = pipe.encode_prompt(text, device="cuda", do_classifier_free_guidance=False)
    seen = set()
    layer = clip.cond_stage_model.clip_g.transformer.text_model.encoder.layers[0].mlp.fc1
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    try:
        context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    finally:
        handle.remove()
    assert seen == {torch.float16}
    assert (context - expected.float().cpu()).abs().max() <= 0.01 * expected.abs().max()
    assert (pooled - expected_pooled.float().cpu()).abs().max() <= 0.01 * expected_pooled.abs().max()
