"""The makers' own comparisons on this machine: `python -m bench.families` measures the six bases at their own sizes.

A picture's time is computed: as many UNet calls as its steps take, and one decode, each timed alone. Weights are random.
Of a base that is measured again (`--only`) the last results count; the others keep theirs.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot
from tabulate import tabulate
from tqdm import tqdm

from dev import diffusers_folders as folders
from dev import host_setup

from . import chart, machine, roofline, weights
from .variants import ACCELERATED
from .weights import NANO_DIR

TIMED_CALLS = 3
CFG_STEPS, FEW_STEPS = 25, 4
NATIVE_SIDE_PIXELS = {"Segmind-Vega": 1024, "SSD-1B": 1024, "SDXL": 1024, "SD 1.5": 512, "small-sd": 512, "tiny-sd": 512}
# (faster, slower, its maker's claim, how many times as fast that is)
CLAIMS = [
    ("Segmind-Vega", "SDXL", "100 % faster, 70 % fewer parameters", 2.0),
    ("SSD-1B", "SDXL", "60 % faster, 50 % fewer parameters", 1.6),
    ("small-sd", "SD 1.5", "up to 100 % faster", 2.0),
    ("tiny-sd", "SD 1.5", "up to 100 % faster", 2.0),
]


class Family(NamedTuple):
    """Of one base: parameters and FLOP of its UNet, and seconds of its calls and decodes."""

    name: str
    parameters: int
    flop: int
    core_unet_s: float
    core_cfg_unet_s: float  # two pictures in one call, as CFG computes them
    pack_unet_s: float  # by the pack's Accelerate
    accelerate_state: str  # which of accelerate.STATES it was
    tiny_decode_s: float
    full_decode_s: float
    measured_at: str  # when, and by how many calls

    def base_seconds(self, decode: float) -> float:
        """Of a picture with guidance, by the host."""
        return CFG_STEPS * self.core_cfg_unet_s + decode

    def few_step_seconds(self, decode: float) -> float:
        return FEW_STEPS * self.pack_unet_s + decode


def median_seconds(run: Callable[[], object], calls: int) -> float:
    """Median seconds, after one call to warm up; 0 calls time that one."""
    seconds = []
    for _ in range(1 + calls):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:] or seconds)


def measure(name: str, calls: int, decodes: dict[str, float]) -> Family:
    from vega_pack.vega import accelerate, cpu_unet
    from vega_pack.vega import unet as loader

    unet = weights.fill_random(folders.real_unet(name), torch.Generator().manual_seed(0))
    config, state = json.loads(unet.to_json_string()), dict(unet.state_dict())
    parameters = sum(weight.numel() for weight in unet.parameters())
    del unet
    patcher = loader.load(NANO_DIR, NANO_DIR, config, state)
    native, side = patcher.model.diffusion_model, NATIVE_SIDE_PIXELS[name] // 8
    features = patcher.model.model_config.unet_config.get("adm_in_channels")

    def inputs(batch: int) -> list:
        y = torch.randn(batch, features) if features else None
        text = torch.randn(batch, roofline.PROMPT_TOKENS, config["cross_attention_dim"])
        return [torch.randn(batch, 4, side, side), torch.full((batch,), 499.0), text, y]

    one, pair, states = inputs(1), inputs(2), []
    ours = cpu_unet.CpuUNet(torch.float32)
    core = median_seconds(lambda: accelerate.call_unet(native, *one), calls)
    core_pair = median_seconds(lambda: accelerate.call_unet(native, *pair), 0)  # minutes, for SDXL
    accelerated = median_seconds(lambda: states.append(ours(patcher, native, *one)[1]), calls)
    measured = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {calls}"
    calls_seconds = core, core_pair, accelerated
    return Family(
        name, parameters, unet_flop(config, side), *calls_seconds, states[-1], decodes["tiny"], decodes["full"], measured
    )


def unet_flop(config: dict, side: int) -> int:
    with torch.inference_mode(False):
        return sum(operation.flop for operation in roofline.count_unet_call(config, 8 * side, 1))


def decode_seconds(pixels: int) -> dict[str, float]:
    """Seconds of a picture's decode: TAESD as Accelerate has it, and the full autoencoder."""
    from vega_pack.vega import checkpoint, tiny_decoder

    z = torch.randn(1, 4, pixels // 8, pixels // 8)
    vae = checkpoint.load(NANO_DIR, "tiny", [])[2]
    full = folders.full_autoencoder().eval()
    return {
        "tiny": median_seconds(lambda: tiny_decoder.decode(vae, z, None, torch.float32), 1),
        "full": median_seconds(lambda: full.decode(z, return_dict=False), 1),
    }


def families_table(families: list[Family]) -> str:
    rows = []
    for family in families:
        decodes = family.full_decode_s, family.tiny_decode_s
        pictures = [*map(family.base_seconds, decodes), *map(family.few_step_seconds, decodes)]
        sizes = [f"{family.parameters / 1e6:.0f} M", f"{family.flop / 1e12:.2f}", NATIVE_SIDE_PIXELS[family.name]]
        calls = [f"{family.core_unet_s:.1f}", f"{family.pack_unet_s:.1f} ({family.accelerate_state})"]
        times = f"{pictures[0] / pictures[-1]:.0f}"
        rows.append([family.name, *sizes, *calls, *(f"{seconds:.0f}" for seconds in pictures), times, family.measured_at])
    headers = ["", "UNet", "TFLOP a call", "pixels", "core, s a call", "Accelerate, s a call", "25 steps, CFG, full VAE, s"]
    headers += ["tiny VAE", "4 steps, Accelerate, full VAE, s", "tiny VAE", "times as fast", "measured, calls"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def draw(families: list[Family], path: Path) -> None:
    """The seconds of a picture as its base draws it and in few steps, on a scale of powers of ten."""
    figure, axes = pyplot.subplots(figsize=(9, 3.6), layout="constrained")
    places = range(len(families))
    bars = {
        f"{CFG_STEPS} steps with CFG, full VAE, ComfyUI's own nodes": [f.base_seconds(f.full_decode_s) for f in families],
        f"{FEW_STEPS} steps, tiny VAE, this pack": [f.few_step_seconds(f.tiny_decode_s) for f in families],
    }
    for (label, seconds), offset, colour in zip(
        bars.items(), (-0.2, 0.2), (chart.OTHER_COLOUR, chart.COLOURS[ACCELERATED]), strict=True
    ):
        drawn = axes.barh([place + offset for place in places], seconds, height=0.38, color=colour, label=label)
        axes.bar_label(drawn, fmt="%.0f s", padding=3, fontsize=chart.FONT_PT)
    axes.set_yticks(places, [f"{f.name}, {NATIVE_SIDE_PIXELS[f.name]} px" for f in families])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_title(f"{machine.device_name()}: seconds of a picture", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=chart.FONT_PT, frameon=False)
    figure.savefig(path, dpi=chart.DPI)
    pyplot.close(figure)


def claims_table(families: list[Family]) -> str:
    by_name, rows = {family.name: family for family in families}, []
    for faster, slower, claim, times in CLAIMS:
        if {faster, slower} <= by_name.keys():
            small, large = by_name[faster], by_name[slower]
            speed, less = large.core_unet_s / small.core_unet_s, 1 - small.parameters / large.parameters
            rows.append(
                [
                    f"{faster} beside {slower}",
                    claim,
                    f"{speed:.2f} times",
                    f"{less:.0%} fewer",
                    "holds" if speed >= times else "not here",
                ]
            )
    return tabulate(rows, ["", "its maker", "a call here", "parameters", "speed"], tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.families", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NATIVE_SIDE_PIXELS, default=list(NATIVE_SIDE_PIXELS), metavar="FAMILY")
    parser.add_argument("--calls", type=int, default=TIMED_CALLS)
    options = parser.parse_args()
    host_setup.load_pack()
    began = os.getloadavg()[0]
    path = weights.ROOT / "bench" / "results" / f"{machine.file_stem()}-families.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    found = {family.name: family for family in (Family(**row) for row in stored)}
    with torch.inference_mode():
        decoding = {pixels: decode_seconds(pixels) for pixels in sorted({NATIVE_SIDE_PIXELS[name] for name in options.only})}
        for name in tqdm(options.only, desc="families"):
            found[name] = measure(name, options.calls, decoding[NATIVE_SIDE_PIXELS[name]])
            gc.collect()
    families = [found[name] for name in NATIVE_SIDE_PIXELS if name in found]
    path.write_text(json.dumps([family._asdict() for family in families], indent=1) + "\n", encoding="utf-8")
    draw(families, path.with_suffix(".png"))
    lines = [
        f"# {machine.device_name()}: the six bases",
        "",
        f"`python -m bench.families`: {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load average {began:.1f} before, {os.getloadavg()[0]:.1f} after; fp32, medians. Of a picture only UNet and "
        "decoder are counted. The makers measured on GPUs.",
        "",
        families_table(families),
        "",
        claims_table(families),
    ]
    text = "\n".join(lines) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
