"""What the pack costs in the host where no model computes: after the decoder, and at the start.

`python -m bench.host_costs NAME` prints one of MEASUREMENTS as JSON, from a process that is like the host's server: so this
file imports neither the host nor diffusers before.
"""

import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import time

import torch

from dev.host import ROOT

SIDE_PIXELS = 1024  # pixels a side of the decoded picture
DECODE_REPEATS, IMPORT_REPEATS = 30, 5
# The most that each may be; stages.measure_host_overhead measures the first.
BUDGETS = {"prompt_ms": 6.0, "decode_tail_ratio": 0.25, "import_ms": 60.0}


def stub_decoder(vae):
    """The VAE with a module for its decoder that has its answer ready, so that only what comes around it is left."""
    picture = torch.rand(1, 3, SIDE_PIXELS, SIDE_PIXELS, dtype=vae.vae_dtype, device=vae.device)
    vae.first_stage_model.taesd_decoder = decoder = torch.nn.Module()
    decoder.forward = lambda latent: picture
    return vae


def time_decode() -> dict[str, float]:
    """Median milliseconds from the decoder's tensor to an IMAGE, by the pack (`ours`) and the host's VAE (`core`)."""
    from dev import host_setup

    host_setup.load_pack()
    import comfy.sd
    from vega_pack.vega import checkpoint, tiny_decoder

    _, _, ours = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
    core = stub_decoder(comfy.sd.VAE(sd=ours.first_stage_model.state_dict()))
    stub_decoder(ours)
    latents = torch.zeros(1, 4, SIDE_PIXELS // 8, SIDE_PIXELS // 8)
    decoders = {"ours": lambda: tiny_decoder.decode(ours, latents), "core": lambda: core.decode(latents)}
    order = [name for name in decoders for _ in range(DECODE_REPEATS)]
    random.shuffle(order)
    seconds = {name: [] for name in decoders}
    with torch.inference_mode():
        for name in [*decoders, *order]:  # the first of each warms up
            began = time.perf_counter()
            decoders[name]()
            seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(times[1:]) for name, times in seconds.items()}


def time_import() -> float:
    """Milliseconds in which the host's own function imports the pack."""
    from dev.host_setup import args

    args.base_directory = str(ROOT / ".bench" / "start")  # the host's server makes folders in it
    import server

    import nodes  # the host's

    async def seconds() -> float:
        server.PromptServer(asyncio.get_running_loop())  # as in the host's start: packs may add routes to it
        await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
        began = time.perf_counter()
        if not await nodes.load_custom_node(str(ROOT)):
            raise RuntimeError("The host could not import the pack.")
        return time.perf_counter() - began

    return 1000 * asyncio.run(seconds())


MEASUREMENTS = {"decode": time_decode, "import": time_import}


def run_in_host_process(name: str):
    """One of MEASUREMENTS, in a process of its own; its log goes to the terminal only if it fails."""
    command = [sys.executable, "-m", "bench.host_costs", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def measure_decode_tail() -> dict[str, float]:
    found = run_in_host_process("decode")
    tail = {f"decode_tail_{who}_ms": milliseconds for who, milliseconds in found.items()}
    return {**tail, "decode_tail_ratio": found["ours"] / found["core"]}


def measure_pack_import() -> dict[str, float]:
    run_in_host_process("import")  # so that the bytecode is there
    return {"import_ms": statistics.median(run_in_host_process("import") for _ in range(IMPORT_REPEATS))}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # what the host prints
        measured = MEASUREMENTS[sys.argv[1]]()
    print(json.dumps(measured))
