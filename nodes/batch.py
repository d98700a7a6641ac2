"""Batch Requests (Vega): several requests of the HTTP API in one prompt."""

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io

MAX_BATCH = 4


class VegaBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        prompts = [
            io.Conditioning.Input(f"positive_{k}", optional=k > 1, tooltip=f"The prompt of picture {k}.")
            for k in range(1, MAX_BATCH + 1)
        ]
        return io.Schema(
            node_id="VegaTogether",  # the name that it had when ids were given out
            display_name="Batch Requests (Vega)",
            category="Vega",
            description="What the HTTP API makes of requests that wait together: each picture is what it would be alone.",
            search_aliases=["batch prompts", "batch seeds", "draw together"],
            inputs=[
                io.Latent.Input("latent_image", tooltip="An empty latent for each prompt."),
                io.String.Input("seeds", tooltip="A seed for each prompt, separated by commas; the sampler's own is 0."),
                *prompts,
            ],
            outputs=[
                io.Conditioning.Output(tooltip="The prompts, for KSampler (Vega LCM).", is_output_list=True),
                io.Latent.Output(tooltip="The latents with their seeds, for the same.", is_output_list=True),
            ],
            is_dev_only=True,
        )

    @classmethod
    def execute(cls, latent_image, seeds, positive_1, positive_2=None, positive_3=None, positive_4=None) -> io.NodeOutput:
        """One batch on a GPU; on a CPU one after another, where a batch would be rounded otherwise in its last bit."""
        seeds = [int(seed) for seed in seeds.split(",")]
        prompts = [prompt for prompt in (positive_1, positive_2, positive_3, positive_4) if prompt is not None]
        samples = latent_image["samples"]
        if not len(seeds) == len(prompts) == len(samples):
            raise ValueError(
                f"There are {len(prompts)} prompts, {len(seeds)} seeds and {len(samples)} latents: give as many of each."
            )
        if comfy.model_management.get_torch_device().type != "cpu" and (batch := batch_conditioning(prompts)):
            return io.NodeOutput([batch], [{**latent_image, "batch_index": seeds}])
        latents = [{**latent_image, "samples": samples[k : k + 1], "batch_index": [seed]} for k, seed in enumerate(seeds)]
        return io.NodeOutput(prompts, latents)


def batch_conditioning(prompts: list[list]) -> list | None:
    """CONDITIONING of [N, tokens, features] of N prompts; None where they are not of one length, or not one entry each."""
    if any(len(prompt) != 1 for prompt in prompts) or len({prompt[0][0].shape for prompt in prompts}) > 1:
        return None
    contexts, options = zip(*(prompt[0] for prompt in prompts), strict=True)
    joined = dict(options[0])
    if joined.get("pooled_output") is not None:
        joined["pooled_output"] = torch.cat([option["pooled_output"] for option in options])
    return [[torch.cat(contexts), joined]]
