"""What a decoded picture costs on its way to an IMAGE, here and in core: `python -m bench.decode_tail` prints both in ms.

The decoder is replaced by a module that has its answer ready, so only what comes around it is left.
"""

import json
import random
import statistics
import time

import torch

from dev import host_setup

host_setup.load_pack()

import comfy.sd  # noqa: E402
from vega_pack.vega import checkpoint, tiny_decoder  # noqa: E402

SIZE = 1024
RUNS = 30


class Ready(torch.nn.Module):
    """Stands for the decoder: the answer to every latent is the same picture."""

    def __init__(self, picture: torch.Tensor):
        super().__init__()
        self.picture = picture

    def forward(self, latent):
        return self.picture


def with_ready_decoder(vae: comfy.sd.VAE) -> comfy.sd.VAE:
    vae.first_stage_model.taesd_decoder = Ready(torch.rand(1, 3, SIZE, SIZE, dtype=vae.vae_dtype, device=vae.device))
    return vae


def measure() -> dict[str, float]:
    """Median milliseconds of `ours` and `core`, in random order; ours is the pack's VAE, core's the host's own."""
    _, _, ours = checkpoint.load(checkpoint.NANO, "tiny", [])
    core = with_ready_decoder(comfy.sd.VAE(sd=ours.first_stage_model.state_dict()))
    with_ready_decoder(ours)
    latents = torch.zeros(1, 4, SIZE // 8, SIZE // 8)
    decoders = {"ours": lambda: tiny_decoder.decode(ours, latents), "core": lambda: core.decode(latents)}
    order = [name for name in decoders for _ in range(RUNS)]
    random.shuffle(order)
    seconds = {name: [] for name in decoders}
    for name in [*decoders, *order]:  # the first of each warms up
        began = time.perf_counter()
        decoders[name]()
        seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(times[1:]) for name, times in seconds.items()}


if __name__ == "__main__":
    with torch.inference_mode():
        print(json.dumps(measure()))
