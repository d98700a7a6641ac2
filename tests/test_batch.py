"""Batch Requests (Vega): several prompts as one batch, each with its own seed."""

import pytest
import torch
from vega_pack.nodes.batch import VegaBatch, batch_conditioning
from vega_pack.vega import lcm


@pytest.fixture(scope="module")
def prompts(nano):
    _, clip, _ = nano
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("night, desert", "a boat at noon", "snow")]


def test_conditionings_are_concatenated_in_their_order(prompts):
    ((context, options),) = batch_conditioning(prompts)
    for k, ((alone, its),) in enumerate(prompts):
        assert torch.equal(context[k : k + 1], alone)
        assert torch.equal(options["pooled_output"][k : k + 1], its["pooled_output"])
    assert prompts[0][0][1]["pooled_output"].shape[0] == 1  # the inputs are the host's cached ones


def test_a_conditioning_without_pooled_output_is_concatenated():
    prompts = [[[torch.full((1, 77, 8), k), {"pooled_output": None}]] for k in (1.0, 2.0)]
    ((context, options),) = batch_conditioning(prompts)
    assert context[:, 0, 0].tolist() == [1, 2]
    assert options == {"pooled_output": None}


def test_prompts_of_other_shapes_are_no_batch(prompts):
    """Prompts of other lengths, or of several entries, are not batched."""

    first, second, _ = prompts
    long = [[torch.cat([first[0][0]] * 2, dim=1), first[0][1]]]
    assert batch_conditioning([first, long]) is None
    assert batch_conditioning([first, [*second, *second]]) is None


def test_each_picture_of_a_batch_is_as_drawn_alone(few_step, prompts):
    """Each picture of a batch is what its seed and prompt draw alone."""

    seeds, latent = [5, 2**64 - 1, 0], torch.zeros(3, 4, 8, 8)
    batch = {"samples": latent, "batch_index": seeds}
    drawn = lcm.sample(few_step, 0, 2, batch_conditioning(prompts), batch, 1.0, disable_progress=True)["samples"]
    for k, (seed, prompt) in enumerate(zip(seeds, prompts, strict=True)):
        alone = lcm.sample(few_step, seed, 2, prompt, {"samples": latent[:1]}, 1.0, disable_progress=True)["samples"]
        torch.testing.assert_close(drawn[k : k + 1], alone, atol=1e-4, rtol=0)


def test_prompts_seeds_and_latents_must_be_as_many(prompts):
    with pytest.raises(ValueError, match="There are 2 prompts, 3 seeds and 3 latents."):
        VegaBatch.execute({"samples": torch.zeros(3, 4, 8, 8)}, "1,2,3", *prompts[:2])
