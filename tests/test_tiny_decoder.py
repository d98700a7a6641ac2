"""The tiny decoder's pictures: the same whole and in tiles, in fp16 and fp32, and in no more memory than is said."""

import copy

import comfy.model_management
import numpy as np
import pytest
import torch
from comfy import cli_args
from diffusers import AutoencoderTiny
from torch.profiler import ProfilerActivity, profile
from vega_pack.nodes import tiny_vae_decode
from vega_pack.vega import checkpoint, tiny_decoder

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference")]


@pytest.fixture(scope="module")
def vae(nano):
    return nano[2]


@pytest.fixture
def latents():
    """Latents in the range that the decoder was made for, and beyond."""
    return torch.randn(2, 4, 42, 57, generator=torch.Generator().manual_seed(0)) * 8


@pytest.mark.parametrize(("side", "pictures"), [(20, 1), (64, 2)])
def test_tiles_are_the_whole_picture(vae, latents, side, pictures):
    latents = latents[:pictures]
    whole = tiny_decoder.decode_whole(vae, latents)
    assert torch.equal(tiny_decoder.decode_tiled(vae, latents, side), whole)


def test_a_tile_needs_all_of_its_context(vae):
    """A decoder of positive weights and no biases turns black into black, so that nothing hides the smallest change."""
    decoder = copy.deepcopy(vae.first_stage_model.taesd_decoder).double()
    for name, weight in decoder.named_parameters():
        weight.fill_(0 if name.endswith("bias") else 1 / weight[0].numel())
    samples = torch.zeros(1, 4, 45, 3, dtype=torch.float64)
    assert not decoder(samples).any()
    samples[..., 22, :] = 1
    rows = decoder(samples).any(-1).flatten(0, 1).any(0).nonzero()
    reach = max(22 * 8 - rows.min().item(), rows.max().item() - (22 * 8 + 7))
    assert 8 * (tiny_decoder.CONTEXT_LATENTS - 1) < reach <= 8 * tiny_decoder.CONTEXT_LATENTS


@pytest.mark.parametrize("free", [0.9, 1.1])
def test_goes_to_tiles_where_memory_is_short(vae, latents, monkeypatch, free):
    """What the host says is free stands for a small GPU's memory."""
    sides = []
    tiled = tiny_decoder.decode_tiled
    monkeypatch.setattr(tiny_decoder, "decode_tiled", lambda vae, z, side, _: sides.append(side) or tiled(vae, z, side))
    needed = tiny_decoder.memory_needed([1, 42, 57], torch.float32)
    monkeypatch.setattr(vae.patcher, "get_free_memory", lambda device: free * needed, raising=False)
    expected = torch.cat([tiny_decoder.decode_whole(vae, one) for one in latents.split(1)])
    assert torch.allclose(tiny_decoder.decode(vae, latents), expected, atol=1e-6)
    assert sides == ([] if free > 1 else [tiny_decoder.TILE_LATENTS])


@pytest.mark.parametrize("most", [pytest.param(2100, marks=pytest.mark.soak), 1000])
def test_goes_to_smaller_tiles_when_memory_runs_out(vae, latents, monkeypatch, most):
    """The error stands for the GPU's own; tests/gpu fills one. Tiles of 24 see up to 42 x 57 latents, of 12 42 x 50."""
    picture, latents = tiny_decoder.decode_whole, latents[:1]
    expected = picture(vae, latents)

    def in_small_memory(vae, samples, _=None):
        if samples.shape[-2] * samples.shape[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return picture(vae, samples)

    monkeypatch.setattr(tiny_decoder, "TILE_LATENTS", 24)
    monkeypatch.setattr(tiny_decoder, "decode_whole", in_small_memory)
    if most == 2100:
        assert torch.equal(tiny_decoder.decode(vae, latents), expected)
    else:
        with pytest.raises(RuntimeError, match="not even memory for 96 x 96 pixels"):
            tiny_decoder.decode(vae, latents)


def test_a_picture_takes_the_memory_that_is_asked_for(vae):
    samples = torch.randn(1, 4, 32, 48)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        tiny_decoder.decode_whole(vae, samples)
    now = most = 0
    for event in sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    asked = tiny_decoder.memory_needed([1, 32, 48], torch.float32)
    assert asked / 2 < most <= asked
    assert vae.memory_used_decode(samples.shape, torch.float32) == asked
    assert tiny_decoder.memory_needed([1, 128, 128], torch.float16) <= 0.8 * 2**30


def test_half_precision_is_within_a_level(latents):
    """In fp16, as on a GPU, against diffusers in fp32; weights and rounding are the same on a CPU."""
    vae = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[2]
    vae.first_stage_model.half()
    vae.vae_dtype = torch.float16
    latents = latents[:1, :, :16, :20] / 8
    reference = AutoencoderTiny.from_pretrained(checkpoint.NANO_DIR / "vae", torch_dtype=torch.float32)
    expected = (reference.decode(latents * 0.13025).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    drawn = tiny_decoder.decode(vae, latents)
    assert drawn.dtype == torch.float32
    assert np.abs(np.rint(255 * drawn.numpy()) - np.rint(255 * expected.numpy())).max() <= 1


def test_pictures_are_laid_out_as_the_host_saves_them(vae, latents):
    drawn = tiny_decoder.decode(vae, latents)
    assert drawn.is_contiguous()
    assert drawn.shape == (2, 8 * 42, 8 * 57, 3)
    assert drawn.device == comfy.model_management.intermediate_device()
    assert drawn.dtype == comfy.model_management.intermediate_dtype()


def test_a_black_picture_is_told(vae, latents, caplog):
    """With the host's flag for Macs; a single light pixel is a picture."""
    last = vae.first_stage_model.taesd_decoder[-1]
    bias = last.bias.clone()
    try:
        last.bias.fill_(-1e3)
        black = tiny_vae_decode.VegaTinyVAEDecode.execute({"samples": latents}, vae).args[0]
    finally:
        last.bias.copy_(bias)
    assert not black.any()
    assert "a picture is black. On a Mac start ComfyUI with --force-upcast-attention." in caplog.text
    assert "--force-upcast-attention" in cli_args.parser.format_help()
    black[:, 3, 5] = 0.01
    assert not tiny_decoder.is_black(black)
    black[1] = 0
    assert tiny_decoder.is_black(black)
    caplog.clear()
    tiny_vae_decode.VegaTinyVAEDecode.execute({"samples": latents}, vae)
    assert not caplog.text
