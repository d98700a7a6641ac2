"""Where the time of a prompt goes: each graph alone on a server of its own, started as a user starts it."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from dev import comfyui, host

from . import served, variants
from .machine import Case, main_case
from .weights import ROOT, Models

SAMPLES = 5  # of each case, with the GPU waited for around every call
HOST_SAMPLES = 40
ROLES = {
    "CLIPTextEncode": "text",
    "VegaLCMSampler": "sampler",
    "KSampler": "sampler",
    "VegaTinyVAEDecode": "decode",
    "VAEDecode": "decode",
    "VegaSendImage": "to bytes",
    "SaveImage": "to bytes",
}
CALLED_IN = {"encoder": "text", "unet": "sampler", "decoder": "decode"}
SMALLEST = 64  # pixels a side; so small that the host is most of it


@contextmanager
def server(models: Models, *arguments: str, **settings: str):
    """The server with the pack, the probe and the host's own example of a pack, SaveImageWebsocket."""
    packs = models.base / "custom_nodes"
    packs.mkdir(exist_ok=True)
    for pack in (ROOT / "bench" / "probe", host.path() / "custom_nodes" / "websocket_image_save.py"):
        (packs / pack.name).unlink(missing_ok=True)
        (packs / pack.name).symlink_to(pack, target_is_directory=pack.is_dir())
    with comfyui.serve(models.base, *arguments, **settings) as running:
        yield running


def watched(client: comfyui.Client, graph: dict, count: int) -> tuple[served.Drawing, list]:
    """The drawing and its spans, as the probe tells them."""
    drawing = served.draw(client, graph, count)
    return drawing, client.server.get("/bench/spans").json()


def split(graph: dict, drawing: served.Drawing, spans: list) -> dict[str, float]:
    """Seconds of each stage; together, without "UNet + decode", they are what the drawing took.

    A span counts up to the pictures' arrival. The executor is what no node accounts for: HTTP, queue, cache, websocket.
    """
    stages = dict.fromkeys(("text", "UNet", "sampler", "decode", "to bytes", "executor"), 0.0)
    arithmetic = dict.fromkeys(("unet", "decoder", "encoder"), 0.0)
    for what, node, began, ended in spans:
        seconds = max(0.0, min(ended, drawing.arrived) - began)
        if what in arithmetic:
            arithmetic[what] += seconds
        elif what == "node" and (role := ROLES.get(graph[node]["class_type"])):
            stages[role] += seconds
    stages["UNet"] = arithmetic["unet"]
    stages["sampler"] -= arithmetic["unet"]
    stages["executor"] = drawing.seconds - sum(stages.values())
    return {**stages, "UNet + decode": arithmetic["unet"] + arithmetic["decoder"]}


def beyond_arithmetic(graph: dict, spans: list) -> dict[str, float]:
    """Seconds of the executor's whole call by stage, without the calls of the UNet, the decoder and the text encoders."""
    parts = dict.fromkeys(("text", "sampler", "decode", "to bytes", "executor"), 0.0)
    for what, node, began, ended in spans:
        if what == "prompt":
            parts["executor"] += ended - began
        elif what in CALLED_IN:
            parts[CALLED_IN[what]] -= ended - began
        elif role := ROLES.get(graph[node]["class_type"]):
            parts[role] += ended - began
            parts["executor"] -= ended - began
    return parts


def alone(name: str, models: Models, cases: list[Case], prompts: Iterator) -> dict:
    """A graph's median stages in seconds for each case, and its peak memory in bytes after the main case."""
    graph_of = variants.GRAPHS[name]
    with server(models) as running, running.connect() as client:
        for _ in range(3):
            served.draw(client, graph_of(models, cases[0], *next(prompts)), cases[0].batch)
        peak = running.get("/bench/peak").json()
        for case in cases[1:]:
            served.draw(client, graph_of(models, case, *next(prompts)), case.batch)
        running.post("/bench/watch", {"on": True})
        found = []
        for case in cases:
            samples = []
            for _ in range(SAMPLES):
                graph = graph_of(models, case, *next(prompts))
                samples.append(split(graph, *watched(client, graph, case.batch)))
            medians = {stage: statistics.median(s[stage] for s in samples) for stage in samples[0]}
            found.append({"variant": name, "case": case, **medians})
    return {"peak": peak, "stages": found}


def host_cost(models: Models, prompts: Iterator, graph_of) -> list[dict[str, float]]:
    """Seconds of each of many prompts in the server beyond the models' arithmetic, by stage: small pictures, four steps."""
    case = main_case((SMALLEST,))
    with server(models) as running, running.connect() as client:
        for _ in range(3):
            served.draw(client, graph_of(models, case, *next(prompts)), 1)
        running.post("/bench/watch", {"on": True})
        found = []
        for _ in range(HOST_SAMPLES):
            graph = graph_of(models, case, *next(prompts))
            found.append(beyond_arithmetic(graph, watched(client, graph, 1)[1]))
    return found
