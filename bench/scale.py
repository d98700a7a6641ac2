"""The API on one and on two ComfyUI processes of this machine: pictures a second by their number.

`python -m bench.scale` writes bench/results/<machine>-scale.md. Each process computes with one thread; the clients are
another process, of the lowest priority.
"""

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import psutil
from tabulate import tabulate

from dev import serve_api

from . import load, machine, results, weights

CLIENTS = 6  # for each process
REQUESTS = 120  # for each process
SIZE = 128  # of which the model is most of the work, as on a GPU
ROUTER_PROCESSES = ("ray::ProxyActor", "ray::ServeReplica:vega:Gateway")


class ScaleResult(NamedTuple):
    replicas: int
    load: load.LoadResult
    routing_cpu_s: float  # CPU seconds of Ray's proxy and of the gateways


def run_clients(url: str, count: int, requests: list[load.Request]) -> load.LoadResult:
    """In a process of its own."""
    os.nice(19)
    return asyncio.run(load.run_load(url, [load.post_to_api] * count, requests))


def routing_cpu_seconds() -> float:
    """CPU seconds so far of the processes that a request passes before it reaches a replica's host."""
    times = 0.0
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        if " ".join(process.info["cmdline"] or []).startswith(ROUTER_PROCESSES):
            times += process.info["cpu_times"].user + process.info["cpu_times"].system
    return times


def measure(replicas: int) -> ScaleResult:
    """Every process draws before the time is taken."""
    models = weights.prepare_models()
    settings = {**load.settings(models), "OMP_NUM_THREADS": "1"}
    with (
        serve_api.serve(models.base, "--replicas", str(replicas), **settings) as running,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        requests = load.make_requests(replicas * (REQUESTS + CLIENTS), SIZE)
        first, requests = requests[: replicas * CLIENTS], requests[replicas * CLIENTS :]
        pool.submit(run_clients, running.url, len(first), first).result()
        before = routing_cpu_seconds()
        scale_result = pool.submit(run_clients, running.url, replicas * CLIENTS, requests).result()
        return ScaleResult(replicas, scale_result, routing_cpu_seconds() - before)


def table(scale_results: list[ScaleResult]) -> str:
    headers = ["ComfyUI processes", "pictures/s", "ratio", "p50 s", "p95 s", "p99 s", "CPU ms a request, proxy and gateway"]
    rows = []
    for one in scale_results:
        percentiles = [f"{one.load.percentile(share):.2f}" for share in (0.5, 0.95, 0.99)]
        cost = 1000 * one.routing_cpu_s / len(one.load.pictures)
        seconds = one.load.seconds_per_picture
        ratio = scale_results[0].load.seconds_per_picture / seconds
        rows.append([one.replicas, f"{1 / seconds:.2f}", f"{ratio:.2f}", *percentiles, f"{cost:.1f}"])
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def write(scale_results: list[ScaleResult]) -> str:
    """The report, also in bench/results."""
    rows = table(scale_results)
    text = (
        f"{machine.device_name()}, {os.cpu_count()} CPUs: {CLIENTS} clients and {REQUESTS} requests for each ComfyUI "
        f"process, {SIZE} x {SIZE} pixels, {load.STEPS} steps. Each process computes with one thread.\n\n{rows}\n"
    )
    (results.RESULTS_DIR / f"{machine.file_stem()}-scale.md").write_text(text, encoding="utf-8")
    return text


def run() -> list[ScaleResult]:
    return [measure(count) for count in (1, 2)]


if __name__ == "__main__":
    began = time.perf_counter()
    print(write(run()), f"({time.perf_counter() - began:.0f} s)")
