"""Many clients at once: this pack's HTTP API beside the host's own /prompt with SaveImage, on one server.

`python -m bench.load --clients 64 --requests 2000` writes bench/results/<machine>-load.md. Both draw the same pictures with
the same nodes; each client asks for its next picture when it has the last one.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
from tabulate import tabulate

from dev import comfyui

from . import graphs, machine, results, stages, weights

SIZE, STEPS = 64, 2
API_VARIANT, PROMPT_VARIANT = "this pack's API", "/prompt with SaveImage"
PROMPTS = ("night, desert, full moon", "a pink dawn over pine trees with a calm lake", "snowy mountains", "a beach at noon")


class Request(NamedTuple):
    prompt: str
    seed: int
    size: int

    def body(self) -> dict:
        size = {"img_width": self.size, "img_height": self.size}
        return {"prompt": self.prompt, "seed": self.seed, "num_inference_steps": STEPS, **size}

    def graph(self, models: weights.Models) -> dict:
        graph = graphs.pack_graph(models, machine.Case(self.size, STEPS, 1), self.prompt, self.seed, mode="auto")
        graph["output"] = graphs.node("SaveImage", images=["decode", 0], filename_prefix="load")
        return graph


class LoadResult(NamedTuple):
    """Seconds of each request, the pictures by their request, seconds of the whole run and of its models' calls."""

    latencies_s: list[float]
    pictures: dict[Request, bytes]
    elapsed_s: float
    model_s: float = 0.0

    def percentile(self, share: float) -> float:
        return statistics.quantiles(self.latencies_s, n=1000, method="inclusive")[round(1000 * share) - 1]

    @property
    def seconds_per_picture(self) -> float:
        """Seconds of the server for a picture."""
        return self.elapsed_s / len(self.pictures)

    @property
    def seconds_outside_models(self) -> float:
        """Of them, those in which no model computed."""
        return (self.elapsed_s - self.model_s) / len(self.pictures)


def make_requests(count: int, size: int = SIZE) -> list[Request]:
    return [Request(text, seed, size) for seed, text in zip(range(count), itertools.cycle(PROMPTS), strict=False)]


async def post_to_api(session: aiohttp.ClientSession, url: str, request: Request) -> bytes:
    async with session.post(f"{url}/v1/segmind-vega-rt-v1", json=request.body()) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {await response.text()}")
        return await response.read()


class PromptClient:
    """As the host's own example: a websocket that tells when a prompt is done, /history what it made, /view the file.

    Not vega_client, which also opens each picture: 14 ms of a core a request, where this takes 3.5.
    """

    def __init__(self, models: weights.Models):
        self.models, self.id, self.socket = models, uuid.uuid4().hex, None

    async def __call__(self, session: aiohttp.ClientSession, url: str, request: Request) -> bytes:
        if self.socket is None:
            self.socket = await session.ws_connect(f"{url}/ws?clientId={self.id}", max_msg_size=0)
        body = {"prompt": request.graph(self.models), "client_id": self.id}
        async with session.post(f"{url}/prompt", json=body) as response:
            prompt_id = (await response.json())["prompt_id"]
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                event = json.loads(message.data)
                if event["type"] == "executing" and event["data"] == {"node": None, "prompt_id": prompt_id}:
                    break
        async with session.get(f"{url}/history/{prompt_id}") as response:
            (file,) = comfyui.output_images((await response.json())[prompt_id]["outputs"])
        async with session.get(f"{url}/view", params=file) as response:
            return await response.read()


async def run_load(url: str, clients: list[Callable[..., Awaitable[bytes]]], requests: list[Request]) -> LoadResult:
    """Every request once, by whichever client is free; the first failure ends it."""
    todo, latencies_s, pictures = iter(requests), [], {}
    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def work(client):
            for request in todo:
                began = time.perf_counter()
                pictures[request] = await client(session, url, request)
                latencies_s.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*map(work, clients))
        return LoadResult(latencies_s, pictures, time.perf_counter() - began)


def settings(models: weights.Models) -> dict[str, str]:
    return {"VEGA_API_MODEL": models.vega, "VEGA_API_LORA": models.lora}


def measure(clients: int, count: int) -> dict[str, LoadResult]:
    """The API's load and the host's, on one server."""
    models = weights.prepare_models()
    variants = {API_VARIANT: [post_to_api] * clients, PROMPT_VARIANT: [PromptClient(models) for _ in range(clients)]}
    requests = make_requests(2 * count)  # no picture twice: the host keeps them
    load_results = {}
    with stages.profiled_server(models, **settings(models)) as running:
        asyncio.run(run_load(running.url, [post_to_api], [Request(text, 2**40) for text in PROMPTS]))
        for name, members in variants.items():
            some, requests = requests[:count], requests[count:]
            running.post("/bench/watch", {"on": True})
            result = asyncio.run(run_load(running.url, members, some))
            load_results[name] = result._replace(model_s=running.post("/bench/watch", {"on": False}).json())
    return load_results


def draw_one_by_one(requests: list[Request]) -> dict[Request, bytes]:
    """The same pictures on a server of their own."""
    models = weights.prepare_models()
    with tempfile.TemporaryDirectory() as folder, comfyui.serve(Path(folder), **settings(models)) as running:
        for kind in ("loras", "vae_approx", "checkpoints", "diffusers"):
            for file in (models.base / "models" / kind).iterdir():
                (running.base / "models" / kind / file.name).symlink_to(file)
        return asyncio.run(run_load(running.url, [post_to_api], requests)).pictures


def table(load_results: dict[str, LoadResult]) -> str:
    headers = ["", "pictures/s", "p50 s", "p95 s", "p99 s", "ms a picture", "of it outside the model"]
    rows = [
        [
            name,
            f"{1 / one.seconds_per_picture:.2f}",
            *(f"{one.percentile(share):.2f}" for share in (0.5, 0.95, 0.99)),
            f"{1000 * one.seconds_per_picture:.1f}",
            f"{1000 * one.seconds_outside_models:.1f}",
        ]
        for name, one in load_results.items()
    ]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def write(load_results: dict[str, LoadResult], clients: int) -> str:
    """The report, also in bench/results."""
    count = len(load_results[API_VARIANT].pictures)
    text = f"{count} requests of {clients} clients each way, {SIZE} x {SIZE} pixels, {STEPS} steps, {os.cpu_count()} CPUs.\n"
    text += f"\n{table(load_results)}\n"
    (results.RESULTS_DIR / f"{machine.file_stem()}-load.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    arguments = parser.parse_args()
    print(write(measure(arguments.clients, arguments.requests), arguments.clients))
