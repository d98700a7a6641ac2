"""The API on several ComfyUI processes of this machine: pictures a second by their number.

`python -m bench.scale` writes bench/results/<machine>-scale.md. Each process computes with one thread; the clients are
another process, of the lowest priority. The second table is of a stand-in for GPUs: its UNet waits and computes nothing.
"""

import asyncio
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import psutil
import requests
from tabulate import tabulate

from dev import serve_api

from . import load, machine, results, weights

CLIENTS = 6  # for each process
REQUESTS = 120  # for each process
SIZE = 128  # of which the model is most of the work, as on a GPU
WAIT = 0.15  # seconds of a UNet call of the stand-in
ROUTERS = ("ray::ProxyActor", "ray::ServeReplica:vega:Gateway")


class Scale(NamedTuple):
    replicas: int
    load: load.Load
    routing: float  # CPU seconds of Ray's proxy and of the gateways
    series: int  # of metrics


def clients(url: str, count: int, asked: list[load.Asked]) -> load.Load:
    """In a process of its own."""
    os.nice(19)
    return asyncio.run(load.load(url, [load.through_the_api] * count, asked))


def routing() -> float:
    """CPU seconds so far of the processes that a request passes before it reaches a replica's host."""
    times = 0.0
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        if " ".join(process.info["cmdline"] or []).startswith(ROUTERS):
            times += process.info["cpu_times"].user + process.info["cpu_times"].system
    return times


def measure(replicas: int, **settings: str) -> Scale:
    """settings: environment variables of the processes. Every process draws before the time is taken."""
    models = weights.models()
    settings |= {**load.settings(models), "OMP_NUM_THREADS": "1"}
    with (
        serve_api.serving(models.base, "--replicas", str(replicas), **settings) as running,
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
    ):
        everything = load.requests(replicas * (REQUESTS + CLIENTS), SIZE)
        first, asked = everything[: replicas * CLIENTS], everything[replicas * CLIENTS :]
        pool.submit(clients, running.url, len(first), first).result()
        before = routing()
        found = pool.submit(clients, running.url, replicas * CLIENTS, asked).result()
        spent = routing() - before
        lines = requests.get(f"http://127.0.0.1:{running.metrics}/metrics").text.splitlines()
        return Scale(replicas, found, spent, sum(not line.startswith("#") for line in lines))


def with_stand_in(replicas: int) -> Scale:
    link = weights.models().base / "custom_nodes" / "stand_in"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(Path(__file__).parent / link.name, target_is_directory=True)
    try:
        return measure(replicas, VEGA_STAND_IN=str(WAIT))
    finally:
        link.unlink()


def table(found: list[Scale]) -> str:
    headers = [
        "ComfyUI processes",
        "pictures/s",
        "ratio",
        "p50 s",
        "p95 s",
        "p99 s",
        "CPU ms a request, proxy and gateway",
        "metrics",
    ]
    rows = []
    for one in found:
        percentiles = [f"{one.load.percentile(share):.2f}" for share in (0.5, 0.95, 0.99)]
        cost = 1000 * one.routing / len(one.load.pictures)
        each = one.load.each
        rows.append(
            [one.replicas, f"{1 / each:.2f}", f"{found[0].load.each / each:.2f}", *percentiles, f"{cost:.1f}", one.series]
        )
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def write(real: list[Scale], stand_in: list[Scale]) -> str:
    """The report, also in bench/results."""
    text = (
        f"{machine.name()}, {os.cpu_count()} CPUs: {CLIENTS} clients and {REQUESTS} requests for each ComfyUI process, "
        f"{SIZE} x {SIZE} pixels, {load.STEPS} steps.\n\n"
        f"Each process computes with one thread:\n\n{table(real)}\n\n"
        f"A stand-in for GPUs, **not a measurement of one**: each UNet call waits {WAIT} s and computes nothing.\n\n"
        f"{table(stand_in)}\n"
    )
    (results.FOLDER / f"{machine.file_stem()}-scale.md").write_text(text, encoding="utf-8")
    return text


def run() -> tuple[list[Scale], list[Scale]]:
    return [measure(count) for count in (1, 2)], [with_stand_in(count) for count in (1, 2, 4)]


if __name__ == "__main__":
    began = time.perf_counter()
    print(write(*run()), f"({time.perf_counter() - began:.0f} s)")
