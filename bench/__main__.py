"""Measures this machine: `python -m bench`; bench/results has the outcome."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import diffusers
import torch

from dev.comfyui import PromptError

from . import host_costs, machine, report, results, roofline, rounds, stages, weights
from .variants import ACCELERATED, CORE, GRAPH_BUILDERS, OURS, VARIANT_GROUPS, DiffusersVariant, GraphVariant, VariantError

PARTS = (*VARIANT_GROUPS, "host", "loading")


def end_to_end(names: list[str], cases: list, models: weights.Models, seconds: float, prompts: Iterator) -> dict:
    """End to end of every variant, side by side; UNet and decoder alone of those that diffusers draws."""
    jobs, left_out = rounds.plan_jobs(names, cases)
    with ExitStack() as stack:
        client = stack.enter_context(
            stack.enter_context(stages.profiled_server(models, *stages.KEEP_MODELS_FLAGS)).connect()
        )
        peers = {}
        for name in dict.fromkeys(name for name, _ in jobs if name not in GRAPH_BUILDERS):
            peers[name] = DiffusersVariant(name, models)
            stack.callback(peers[name].stop)
        variants = {name: GraphVariant(name, models, client) for name in names if name in GRAPH_BUILDERS} | peers
        first, failed = rounds.warm_up(variants, jobs, prompts)
        jobs = [job for job in jobs if job[0] not in failed]
        times = rounds.measure(variants, jobs, prompts, seconds)
        alone = [
            {"variant": name, "case": case, "ms": 1000 * model_seconds(peers[name], case, prompts)}
            for name, case in jobs
            if name in peers
        ]
        peaks = {name: peer.first_peak for name, peer in peers.items() if name not in failed}
    ends = [
        {"variant": name, "case": case, "first_ms": 1000 * first[name, case], **rounds.summarize(times[name, case])}
        for name, case in jobs
    ]
    return {"ends": ends, "models": alone, "peaks": peaks, "left_out": left_out | failed}


def model_seconds(peer: DiffusersVariant, case, prompts: Iterator) -> float:
    return statistics.median(peer.draw(case, *next(prompts), watch=True).model_s for _ in range(stages.REPEATS))


def measure(parts: list[str], sizes: tuple[int, ...], seconds: float) -> dict:
    """One run; `seconds` is how long the variants take turns, beside loading and everything that is measured alone."""
    began, models, prompts = os.getloadavg()[0], weights.prepare_models(), rounds.unique_prompts()
    cases = machine.cases(sizes)
    names = [name for group, members in VARIANT_GROUPS.items() if group in parts for name in members]
    before = roofline.measure_rates()
    run = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "versions": machine.versions(), "parts": parts, "sizes": sizes}
    run["main_case"] = machine.main_case(sizes)
    run["models_measured"] = (
        "Segmind-Vega's shapes with random weights."
        if machine.GPU
        else "vega-nano, which core's loaders cannot load: its graphs take MODEL and CLIP from Load Vega."
    )
    none = {"ends": [], "models": [], "peaks": {}, "left_out": {}}
    run |= end_to_end(names, cases, models, seconds, prompts) if names else none
    run["stages"] = []
    for name in (OURS, ACCELERATED, CORE):
        if name in names and name not in run["left_out"]:
            alone = stages.profile_variant(name, models, cases, prompts)
            run["peaks"][name] = alone["peak"]
            for row in alone["stages"]:
                timed = {key: 1000 * value for key, value in row.items() if key not in ("variant", "case")}
                run["stages"].append({**row, **timed})
                run["models"].append({"variant": name, "case": row["case"], "ms": timed["UNet + decode"]})
    run["host"] = run["loading"] = {}
    if "host" in parts:
        run["host"] = {
            **stages.measure_host_overhead(models, prompts),
            **host_costs.measure_decode_tail(),
            **host_costs.measure_pack_import(),
        }
    if "loading" in parts:
        run["loading"] = {name: stages.measure_session(name, models, sizes, prompts) for name in (ACCELERATED, CORE)}
    rates = roofline.Rates(*map(max, before, roofline.measure_rates()))
    config = diffusers.UNet2DConditionModel.load_config(models.folder / "unet")
    run["rates"], run["roofline"] = rates._asdict(), []
    for case in cases if names else []:
        found = roofline.case_roofline(config, case, rates)
        run["roofline"].append({"case": case, "ms": 1000 * found.pop("seconds"), **found})
    return run | {"threads": torch.get_num_threads(), "load_average": [began, os.getloadavg()[0]]}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=machine.SIZES, metavar="PIXELS", help="sides of pictures")
    parser.add_argument("--budget", type=float, default=150, metavar="SECONDS", help="for the rounds of prompts (150)")
    options = parser.parse_args(arguments)
    if any(size % 64 or size < 64 for size in options.sizes):
        parser.error("--sizes must be multiples of 64.")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(weights.WORK_DIR / "inductor")  # compiled once for every later run
    diffusers.utils.logging.set_verbosity_error()
    since = time.monotonic()
    try:
        run = measure([part for part in PARTS if part in options.only], sorted(options.sizes), options.budget)
    except (VariantError, PromptError, RuntimeError) as error:
        sys.exit(f"No results: {error}")
    print(report.render_terminal(run))
    print("", *results.write(run), f"{time.monotonic() - since:.0f} s", sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
