"""Each graph alone on a server of its own: where the time of a prompt goes, and what a session waits for beside pictures."""

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dev import comfyui, host

from . import served, variants
from .machine import Case, main_case
from .weights import LORA, ROOT, Models

REPEATS = 5  # of each case, with the GPU waited for around every call
HOST_REPEATS = 40
NODE_STAGES = {
    "CLIPTextEncode": "text",
    "VegaLCMSampler": "sampler",
    "KSampler": "sampler",
    "VegaTinyVAEDecode": "decode",
    "VAEDecode": "decode",
    "VegaSendImage": "to bytes",
    "SaveImage": "to bytes",
}
MODEL_STAGES = {"encoder": "text", "unet": "sampler", "decoder": "decode"}
MIN_SIDE_PIXELS = 64  # pixels a side; so small that the host is most of it
STRENGTHS = (0.9, 0.8, 0.7)
OTHER_LORA, OTHER_CHECKPOINT = "other-lcm.safetensors", "other-vega.safetensors"
# Without it the host drops every loaded model at each change of graph.
KEEP_MODELS_FLAGS = ("--cache-lru", "1000")


@contextmanager
def profiled_server(models: Models, *arguments: str, **settings: str):
    """The server with the pack, the profiler and the host's own example of a pack, SaveImageWebsocket."""
    packs = models.base / "custom_nodes"
    packs.mkdir(exist_ok=True)
    for pack in (ROOT / "bench" / "profiler", host.path() / "custom_nodes" / "websocket_image_save.py"):
        (packs / pack.name).unlink(missing_ok=True)
        (packs / pack.name).symlink_to(pack, target_is_directory=pack.is_dir())
    with comfyui.serve(models.base, *arguments, **settings) as running:
        yield running


def draw_profiled(client: comfyui.Client, graph: dict, count: int) -> tuple[served.TimedPrompt, list]:
    """The drawing and its spans, as the profiler tells them."""
    drawing = served.time_prompt(client, graph, count)
    return drawing, client.server.get("/bench/spans").json()


def stage_seconds(graph: dict, drawing: served.TimedPrompt, spans: list) -> dict[str, float]:
    """Seconds of each stage; together, without "UNet + decode", they are what the drawing took.

    A span counts up to the pictures' arrival. The executor is what no node accounts for: HTTP, queue, cache, websocket.
    """
    stages = dict.fromkeys(("text", "UNet", "sampler", "decode", "to bytes", "executor"), 0.0)
    arithmetic = dict.fromkeys(("unet", "decoder", "encoder"), 0.0)
    for what, node, began, ended in spans:
        seconds = max(0.0, min(ended, drawing.arrived) - began)
        if what in arithmetic:
            arithmetic[what] += seconds
        elif what == "node" and (role := NODE_STAGES.get(graph[node]["class_type"])):
            stages[role] += seconds
    stages["UNet"] = arithmetic["unet"]
    stages["sampler"] -= arithmetic["unet"]
    stages["executor"] = drawing.seconds - sum(stages.values())
    return {**stages, "UNet + decode": arithmetic["unet"] + arithmetic["decoder"]}


def overhead_by_stage(graph: dict, spans: list) -> dict[str, float]:
    """Seconds of the executor's whole call by stage, without the calls of the UNet, the decoder and the text encoders."""
    parts = dict.fromkeys(("text", "sampler", "decode", "to bytes", "executor"), 0.0)
    for what, node, began, ended in spans:
        if what == "prompt":
            parts["executor"] += ended - began
        elif what in MODEL_STAGES:
            parts[MODEL_STAGES[what]] -= ended - began
        elif role := NODE_STAGES.get(graph[node]["class_type"]):
            parts[role] += ended - began
            parts["executor"] -= ended - began
    return parts


def profile_variant(name: str, models: Models, cases: list[Case], prompts: Iterator) -> dict:
    """A graph's median stages in seconds for each case, and its peak memory in bytes after the main case."""
    graph_of = variants.GRAPH_BUILDERS[name]
    with profiled_server(models) as running, running.connect() as client:
        for _ in range(3):
            served.time_prompt(client, graph_of(models, cases[0], *next(prompts)), cases[0].batch)
        peak = running.get("/bench/peak").json()
        for case in cases[1:]:
            served.time_prompt(client, graph_of(models, case, *next(prompts)), case.batch)
        running.post("/bench/watch", {"on": True})
        found = []
        for case in cases:
            samples = []
            for _ in range(REPEATS):
                graph = graph_of(models, case, *next(prompts))
                samples.append(stage_seconds(graph, *draw_profiled(client, graph, case.batch)))
            medians = {stage: statistics.median(s[stage] for s in samples) for stage in samples[0]}
            found.append({"variant": name, "case": case, **medians})
    return {"peak": peak, "stages": found}


def host_overhead_ms(models: Models, prompts: Iterator, graph_of) -> list[dict[str, float]]:
    """Milliseconds of each of HOST_REPEATS small prompts in the server beyond the models' arithmetic, by stage."""
    case = main_case((MIN_SIDE_PIXELS,))
    with profiled_server(models) as running, running.connect() as client:
        for _ in range(3):
            served.time_prompt(client, graph_of(models, case, *next(prompts)), 1)
        running.post("/bench/watch", {"on": True})
        found = []
        for _ in range(HOST_REPEATS):
            graph = graph_of(models, case, *next(prompts))
            parts = overhead_by_stage(graph, draw_profiled(client, graph, 1)[1])
            found.append({part: 1000 * seconds for part, seconds in parts.items()})
    return found


def measure_host_overhead(models: Models, prompts: Iterator) -> dict:
    """What a prompt costs the host beyond the models, with the accelerated graph and with core's."""
    core = [sum(parts.values()) for parts in host_overhead_ms(models, prompts, variants.GRAPH_BUILDERS[variants.CORE])]
    found = host_overhead_ms(models, prompts, variants.GRAPH_BUILDERS[variants.ACCELERATED])
    whole = [sum(parts.values()) for parts in found]
    return {
        "prompt_ms": statistics.median(whole),
        "prompt_min_ms": min(whole),
        "core_prompt_ms": statistics.median(core),
        "prompt_parts_ms": {part: statistics.median(p[part] for p in found) for part in found[0]},
    }


def write_other_files(models: Models) -> None:
    """The same LCM-LoRA and checkpoint under other names: for the server, others."""
    folder = models.base / "models"
    if not (folder / "loras" / OTHER_LORA).is_file():
        shutil.copy(folder / "loras" / LORA, folder / "loras" / OTHER_LORA)
    other = folder / "checkpoints" / OTHER_CHECKPOINT
    if models.checkpoint and not other.is_symlink():
        other.symlink_to(folder / "checkpoints" / models.checkpoint)


def other_model_input(name: str, models: Models) -> dict[str, str]:
    """The input of the loader that makes the variant load another model."""
    if models.checkpoint:
        return {"model_name" if name == variants.ACCELERATED else "ckpt_name": OTHER_CHECKPOINT}
    return {"model_name": models.second if name == variants.ACCELERATED else models.vega}


def measure_session(name: str, models: Models, sizes: tuple[int, ...], prompts: Iterator) -> dict[str, float]:
    """Seconds of each step of a session: the server's start, the first picture, each change of what it is drawn with."""
    case = main_case(sizes)
    write_other_files(models)
    began = time.perf_counter()
    with profiled_server(models, *KEEP_MODELS_FLAGS) as running, running.connect() as client:
        started = time.perf_counter() - began

        def draw(lora: dict = {}, load: dict = {}) -> float:  # noqa: B006 (never changed)
            graph = variants.GRAPH_BUILDERS[name](models, case, *next(prompts))
            graph["lora"]["inputs"].update(lora)
            graph["load"]["inputs"].update(load)
            return served.time_prompt(client, graph, case.batch).seconds

        return {
            "the server's start": started,
            "the first picture": draw(),
            "the next": statistics.median(draw() for _ in STRENGTHS),
            "with another strength": statistics.median(draw(lora={"strength_model": s}) for s in STRENGTHS),
            "with another LCM-LoRA": draw(lora={"lora_name": OTHER_LORA}),
            "with another model": draw(load=other_model_input(name, models)),
            "with the first model again": draw(),
        }
