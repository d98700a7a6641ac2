"""Accelerate (Vega) on a processor with a model that others have patched, hooked or changed in place: it is noticed."""

import sys

import pytest
import torch
from comfy.ldm.modules import attention
from cpu_drawing import assert_close
from graph_recorder import draw
from unet_patches import PATCHES, hooked, steered
from vega_pack.vega import accelerate, openvino_graph

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference", "graph_cache", "reset_cpu_unet")]


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_a_patched_model_runs_eagerly(few_step, positive, without_openvino, patch):
    draw(accelerate.apply(few_step, "auto"), positive)
    patched = few_step.clone()
    patch(patched)
    assert torch.equal(draw(accelerate.apply(patched, "auto"), positive), draw(patched, positive))


def test_a_controlnet_runs_eagerly(few_step, positive, without_openvino):
    prompt = steered(few_step, positive)
    assert torch.equal(draw(accelerate.apply(few_step, "auto"), prompt), draw(few_step, prompt))


def circular_padding(layer):
    layer.padding_mode, layer._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]


def own_convolution(layer):
    layer._conv_forward = lambda x, weight, bias: 1.5 * torch.nn.functional.conv2d(x, weight, bias, padding=1)


def own_class(layer):
    louder = type(
        "Louder", (type(layer),), {"forward": lambda self, x: 1.5 * torch.nn.functional.conv2d(x, self.weight, padding=1)}
    )
    layer.__class__ = louder


def other_weight(layer):
    layer.weight.mul_(1.5)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("change", [circular_padding, own_convolution, own_class, other_weight])
def test_a_layer_changed_in_place_is_noticed(nano, few_step, positive, monkeypatch, change, graph):
    """As packs for seamless tiles do, between two runs; and it is noticed when it is put back."""
    if not graph:
        monkeypatch.setattr(openvino_graph, "INSTALLED", False)
    fast = accelerate.apply(few_step, "auto")
    plain = draw(fast, positive)
    layer = few_step.model.diffusion_model.out[2]
    before, kind, weight = dict(vars(layer)), type(layer), layer.weight.clone()
    change(layer)
    try:
        changed = draw(few_step, positive)
        assert_close(draw(fast, positive, steps=2), draw(few_step, positive, steps=2))
        assert not torch.allclose(changed, plain, atol=1e-2)
    finally:
        layer.__class__ = kind
        vars(layer).clear()
        vars(layer).update(before)
        layer.weight.copy_(weight)
    assert_close(draw(fast, positive), plain)


@pytest.mark.parametrize("graph", [False, True])
def test_a_block_exchanged_in_place_is_noticed(few_step, positive, monkeypatch, graph):
    if not graph:
        monkeypatch.setattr(openvino_graph, "INSTALLED", False)
    fast = accelerate.apply(few_step, "auto")
    plain = draw(fast, positive)
    out = few_step.model.diffusion_model.out
    silu, out[1] = out[1], torch.nn.Tanh()
    try:
        changed = draw(few_step, positive)
        assert_close(draw(fast, positive), changed)
        assert not torch.allclose(changed, plain, atol=1e-2)
    finally:
        out[1] = silu
    assert_close(draw(fast, positive), plain)


def test_attention_of_another_pack_is_used(few_step, positive, monkeypatch):
    fast = accelerate.apply(few_step, "auto")
    plain = draw(fast, positive)
    hosts = attention.optimized_attention
    for module in (attention, sys.modules["comfy.ldm.modules.attention"]):
        monkeypatch.setattr(module, "optimized_attention", lambda q, k, v, *args, **kw: hosts(q, k, 1.5 * v, *args, **kw))
    changed = draw(few_step, positive)
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert_close(draw(fast, positive), changed)


def test_a_hook_on_a_layer_runs_eagerly(few_step, positive, without_openvino):
    fast = accelerate.apply(few_step, "auto")
    plain = draw(fast, positive)
    with hooked(few_step.model.diffusion_model.out[2]):
        drawn = draw(fast, positive)
        assert torch.equal(drawn, draw(few_step, positive))
        assert not torch.allclose(drawn, plain, atol=1e-3)
