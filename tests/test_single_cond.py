"""The short way for one prompt gives what the host's own gives, bit for bit, and steps aside for everything else."""

import inspect
import re

import comfy.samplers
import pytest
import torch
from vega_pack.vega import lcm, single_cond

import nodes as host_nodes

pytestmark = pytest.mark.model
SHORT = single_cond.calc_cond_batch


def draw(model, positive, monkeypatch, short: bool, batch=2, **latent):
    """(the latents, how often the host's own calc_cond_batch was asked)."""
    asked = []

    def watched(executor, *args):
        def own(*args):
            asked.append(1)
            return executor(*args)

        return SHORT(own, *args) if short else own(*args)

    monkeypatch.setattr(single_cond, "calc_cond_batch", watched)
    latent = {"samples": torch.zeros(batch, 4, 8, 12), **latent}
    return lcm.sample(model, 5, 3, positive, latent, 1.0, disable_progress=True)["samples"], len(asked)


def two_in_one(positive):
    """One entry with a context for each picture of the batch."""
    (context, options), *_ = positive
    both = torch.cat([context, context.flip(1)])
    return [[both, {**options, "pooled_output": options["pooled_output"].repeat(2, 1)}]]


def model_as_is(model):
    return model


def cfg_functions(model):
    model.set_model_sampler_cfg_function(lambda args: args["cond"] * 1.01)
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.99)
    return model


@pytest.mark.parametrize("change", [model_as_is, cfg_functions])
@pytest.mark.parametrize("prompts", [lambda p: p, two_in_one], ids=["one", "one a picture"])
@pytest.mark.parametrize("mask", [None, torch.linspace(0, 1, 12).expand(1, 1, 8, 12)], ids=["all", "masked"])
def test_one_prompt_is_bit_for_bit_the_hosts(few_step, positive, monkeypatch, change, prompts, mask):
    model, latent = change(few_step.clone()), {} if mask is None else {"noise_mask": mask}
    expected, asked = draw(model, prompts(positive), monkeypatch, short=False, **latent)
    assert asked == 3
    drawn, asked = draw(model, prompts(positive), monkeypatch, short=True, **latent)
    assert asked == 0
    assert torch.equal(drawn, expected)


def conditioned(node, *values):
    def change(positive):
        method = getattr(node, node.FUNCTION)
        return method(node(), positive, *values)[0]

    return change


def two_prompts(positive):
    return positive + positive


OTHERS = {
    "area": conditioned(host_nodes.ConditioningSetArea, 64, 64, 0, 0, 1.0),
    "strength": conditioned(host_nodes.ConditioningSetAreaStrength, 0.5),
    "mask": conditioned(host_nodes.ConditioningSetMask, torch.ones(1, 64, 96), "default", 1.0),
    "time": conditioned(host_nodes.ConditioningSetTimestepRange, 0.0, 0.9),
    "two": two_prompts,
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_the_hosts_own(few_step, positive, monkeypatch, change):
    expected, asked = draw(few_step, change(positive), monkeypatch, short=False)
    drawn, asked_now = draw(few_step, change(positive), monkeypatch, short=True)
    assert asked == asked_now == 3
    assert torch.equal(drawn, expected)


def test_a_wrapper_around_the_model_goes_through_the_host(few_step, positive, monkeypatch):
    model = few_step.clone()
    model.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]) * 0.9)
    expected, _ = draw(model, positive, monkeypatch, short=False)
    drawn, asked = draw(model, positive, monkeypatch, short=True)
    assert asked == 3
    assert torch.equal(drawn, expected)


def keys_read(function, name: str) -> set[str]:
    """The keys that a function's source reads of a dict that it calls so."""
    key = r"""["'](\w+)["']"""
    read = re.findall(rf"\b{name}(?:\[|\.get\(){key}|{key} (?:not )?in {name}\b", inspect.getsource(function))
    return {one or other for one, other in read}


def test_no_key_of_the_host_is_unknown():
    """Without this a key that a newer ComfyUI reads would be ignored."""
    place, batch = comfy.samplers.get_area_and_mult, comfy.samplers._calc_cond_batch
    keys = keys_read(place, "conds") | keys_read(batch, "x")
    assert {"area", "mask", "model_conds", "default"} <= keys
    # What the short way reads itself, and what counts with a mask only.
    assert keys - {"model_conds", "uuid", "mask_strength"} <= single_cond.COND_KEYS
    options = keys_read(batch, "model_options")
    assert "model_function_wrapper" in options
    assert options - {"transformer_options"} <= single_cond.MODEL_OPTION_KEYS
