"""UNet and decoder alone on a processor, by everyone who draws there: `python -m bench.processor`.

All in one process, in turns, in random order; each row also says how far its output is from the host's in fp32.
"""

import argparse
import gc
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import psutil
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from tabulate import tabulate
from tqdm import tqdm

from dev import diffusers_folders as folders
from dev import host_setup

from . import machine, roofline, weights
from .weights import NANO_DIR

ROUNDS = 9
MIB = 2**20


class Variant(NamedTuple):
    """How somebody computes it; prepare() may take its time and gives what is called."""

    name: str
    dtype: torch.dtype
    prepare: Callable[[], Callable[[], torch.Tensor]]


class Result(NamedTuple):
    name: str
    dtype: torch.dtype
    prepare_s: float  # seconds, the first call in it
    error: float  # the largest difference by the largest value
    seconds: list[float]


def measure(variants: list[Variant], rounds: int) -> list[Result]:
    """The first variant is what the others are compared with."""
    calls, prepare_s, outputs = {}, {}, {}
    for variant in tqdm(variants, desc="first calls"):
        began = time.perf_counter()
        calls[variant.name] = variant.prepare()
        outputs[variant.name] = calls[variant.name]().float()
        prepare_s[variant.name] = time.perf_counter() - began
    expected = outputs[variants[0].name]
    errors = {name: ((out - expected).abs().max() / expected.abs().max()).item() for name, out in outputs.items()}
    seconds = {variant.name: [] for variant in variants}
    for _ in tqdm(range(rounds), desc="rounds"):
        for name in random.sample(list(calls), len(calls)):
            began = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - began)
    return [Result(v.name, v.dtype, prepare_s[v.name], errors[v.name], seconds[v.name]) for v in variants]


def openvino_call(module: torch.nn.Module, examples: tuple, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """diffusers' module by OpenVINO as its notebooks convert it, its graph kept in fp32."""
    import openvino

    graph = openvino.convert_model(module, example_input=examples)
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
    }
    hints["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    request = openvino.Core().compile_model(graph, "CPU", hints).create_infer_request()
    arrays = [tensor.numpy() for tensor in examples]

    def call() -> torch.Tensor:
        request.infer(arrays, share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return call


class FlatUNet(torch.nn.Module):
    """diffusers' UNet with tensors alone as inputs, for OpenVINO."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet

    def forward(self, x, t, text, pooled, ids):
        return self.unet(x, t, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids}, return_dict=False)[0]


class FlatDecoder(torch.nn.Module):
    def __init__(self, vae: AutoencoderTiny):
        super().__init__()
        self.vae = vae

    def forward(self, z):
        return self.vae.decode(z, return_dict=False)[0]


def vega_unet() -> UNet2DConditionModel:
    """Segmind-Vega's shapes with random weights in fp32."""
    unet = weights.fill_random(folders.real_unet("Segmind-Vega"), torch.Generator().manual_seed(0)).float()
    return unet.requires_grad_(False)


def resident_mib(unet: UNet2DConditionModel, size: int) -> list[float]:
    """After a call by the host, after one by Accelerate in each of its modes, and after `off`."""
    from vega_pack.vega import accelerate, cpu_unet, heap
    from vega_pack.vega import unet as loader

    config, process = json.loads(unet.to_json_string()), psutil.Process()
    patcher = loader.load(NANO_DIR, NANO_DIR, config, dict(unet.state_dict()))
    native = patcher.model.diffusion_model
    features = patcher.model.model_config.unet_config["adm_in_channels"]
    text, y = torch.randn(1, roofline.PROMPT_TOKENS, config["cross_attention_dim"]), torch.randn(1, features)
    inputs = torch.randn(1, 4, size // 8, size // 8), torch.tensor([499.0]), text, y
    accelerate.call_unet(native, *inputs)
    heap.trim()
    found = [process.memory_info().rss / MIB]
    modes = [cpu_unet.CpuUNet(dtype) for dtype in (torch.float32, torch.bfloat16)[: 1 + cpu_unet.supports_bf16()]]
    for calls in modes:
        calls(patcher, native, *inputs)
        found.append(process.memory_info().rss / MIB)
        calls.clear()
    gc.collect()
    return [*found, process.memory_info().rss / MIB]


def unet_variants(unet: UNet2DConditionModel, size: int, compiles: bool) -> list[Variant]:
    from vega_pack.vega import accelerate, cpu_unet
    from vega_pack.vega import unet as loader

    config = json.loads(unet.to_json_string())
    patcher = loader.load(NANO_DIR, NANO_DIR, config, dict(unet.state_dict()))
    native = patcher.model.diffusion_model
    generator = torch.Generator().manual_seed(1)
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    sides = dict(generator=generator)
    x, t = torch.randn(1, 4, size // 8, size // 8, **sides), torch.tensor([499.0])
    text, embeds = torch.randn(1, 77, config["cross_attention_dim"], **sides), torch.randn(1, pooled, **sides)
    ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32)
    y = torch.cat([embeds, unet.add_time_proj(ids.flatten()).reshape(1, -1)], dim=1)
    flat, examples = FlatUNet(unet), (x, t, text, embeds, ids)

    def ours(dtype: torch.dtype):
        calls = cpu_unet.CpuUNet(dtype)
        return lambda: calls(patcher, native, x, t, text, y)[0]

    variants = [
        Variant("core", torch.float32, lambda: lambda: accelerate.call_unet(native, x, t, text, y)),
        Variant("diffusers", torch.float32, lambda: lambda: flat(*examples)),
        Variant("this pack, auto", torch.float32, lambda: ours(torch.float32)),
        Variant("OpenVINO, f32", torch.float32, lambda: openvino_call(flat, examples, torch.float32)),
    ]
    if compiles:
        variants.append(Variant("diffusers, inductor, freezing", torch.float32, lambda: inductor_call(flat, examples)))
    if cpu_unet.supports_bf16():
        variants += [
            Variant("this pack, bf16", torch.bfloat16, lambda: ours(torch.bfloat16)),
            Variant("OpenVINO, bf16", torch.bfloat16, lambda: openvino_call(flat, examples, torch.bfloat16)),
        ]
    return variants


def inductor_call(module: torch.nn.Module, examples: tuple) -> Callable[[], torch.Tensor]:
    import torch._inductor.config

    compiled = torch.compile(module, dynamic=False)

    def call() -> torch.Tensor:
        with torch._inductor.config.patch(freezing=True):
            return compiled(*examples)

    return call


def decode_variants(size: int) -> list[Variant]:
    from vega_pack.vega import checkpoint, cpu_unet, tiny_decoder

    vae = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[2]
    theirs = AutoencoderTiny.from_pretrained(NANO_DIR / "vae").eval().requires_grad_(False)
    z = torch.randn(1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    scaled = z * vae.first_stage_model.vae_scale - 0 * vae.first_stage_model.vae_shift

    def picture(decoded: torch.Tensor) -> torch.Tensor:
        return (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    def by_openvino(dtype: torch.dtype):
        call = openvino_call(FlatDecoder(theirs), (scaled,), dtype)
        return lambda: picture(call())

    variants = [
        Variant("core", torch.float32, lambda: lambda: vae.decode(z)),
        Variant("diffusers", torch.float32, lambda: lambda: picture(theirs.decode(scaled, return_dict=False)[0])),
        Variant("this pack, off", torch.float32, lambda: lambda: tiny_decoder.decode(vae, z)),
        Variant("this pack, auto", torch.float32, lambda: lambda: tiny_decoder.decode(vae, z, None, torch.float32)),
        Variant("OpenVINO, f32", torch.float32, lambda: by_openvino(torch.float32)),
    ]
    if cpu_unet.supports_bf16():
        variants += [
            Variant("this pack, bf16", torch.bfloat16, lambda: lambda: tiny_decoder.decode(vae, z, None, torch.bfloat16)),
            Variant("OpenVINO, bf16", torch.bfloat16, lambda: by_openvino(torch.bfloat16)),
        ]
    return variants


def table(rows: list[Result], operations: list[roofline.Operation], rates: dict[torch.dtype, float]) -> str:
    core = statistics.median(rows[0].seconds)
    flop = sum(operation.flop for operation in operations)
    filled = []
    for row in rows:
        median = statistics.median(row.seconds)
        timed = [f"{1000 * s:.0f}" for s in (median, float(np.percentile(row.seconds, 95)), min(row.seconds))]
        by_roofline = median * rates[row.dtype] / flop
        filled.append(
            [row.name, *timed, f"{core / median:.2f}", f"{by_roofline:.2f}", f"{row.error:.1e}", f"{row.prepare_s:.1f}"]
        )
    headers = ["", "median ms", "95th", "least", "times core", "by its roofline", "largest error", "before the first, s"]
    return tabulate(filled, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.processor", description=__doc__)
    parser.add_argument("--size", type=int, default=512, metavar="PIXELS")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--compile", action="store_true", help="inductor too, which compiles for minutes")
    options = parser.parse_args()
    host_setup.load_pack()
    began, process = os.getloadavg()[0], psutil.Process()
    config = {**folders.real_unet("Segmind-Vega").config}
    # Outside of inference mode, in which operations can't be counted.
    counted = {"UNet": roofline.count_unet_call(config, options.size, 1)}
    counted["decode"] = roofline.count_tiny_decode(options.size, 1)
    with torch.inference_mode():
        before, *kept, after = resident_mib(vega_unet(), options.size)
        gc.collect()
        rates = {dtype: roofline.matmul_flop_per_second(dtype) for dtype in (torch.float32, torch.bfloat16)}
        tables = {"decode": table(measure(decode_variants(options.size), options.rounds), counted["decode"], rates)}
        gc.collect()
        variants = unet_variants(vega_unet(), options.size, options.compile)
        tables["UNet"] = table(measure(variants, options.rounds), counted["UNet"], rates)
    lines = [
        f"# {machine.device_name()}: UNet and decoder alone",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `python -m bench.processor`: {os.cpu_count()} CPUs, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"load average {began:.1f} before, {os.getloadavg()[0]:.1f} after; "
        f"{options.size} x {options.size} pixels, {options.rounds} calls each in turns; "
        f"{rates[torch.float32] / 1e9:.0f} GFLOP/s in fp32 and {rates[torch.bfloat16] / 1e9:.0f} in bf16 in a product of "
        f"{roofline.MATRIX_SIZE} x {roofline.MATRIX_SIZE} matrices; "
        f"peak memory of the process {process.memory_info().rss / MIB:.0f} MiB.",
        "",
        "The error is the largest difference from core's output by its largest value. A roofline is a dtype's own.",
        "",
        f"Resident memory: {before:.0f} MiB after a call by core, {' and '.join(f'{mib:.0f}' for mib in kept)} after one by "
        f"`{'` and `'.join(('auto', 'bf16')[: len(kept)])}`, {after:.0f} after `off`.",
    ]
    titles = {"UNet": "One call of Segmind-Vega's UNet (its shapes, random weights)", "decode": "TAESD's decoder"}
    for part in ("UNet", "decode"):
        lines += ["", f"## {titles[part]}", "", tables[part]]
    text = "\n".join(lines) + "\n"
    (weights.ROOT / "bench" / "results" / f"{machine.file_stem()}-processor.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
