"""What draws the pictures: a graph on the server, or diffusers in its own process."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from dev import comfyui

from . import graphs, served
from .machine import Case
from .weights import ROOT, WORK_DIR, Models

OURS, ACCELERATED, BF16 = "this pack", "this pack, accelerated", "this pack, bf16"
CORE, CORE_WEBSOCKET, CORE_COMPILED = "core, SaveImage", "core, SaveImageWebsocket", "core, TorchCompileModel, SaveImage"
GRAPH_BUILDERS: dict[str, Callable[[Models, Case, str, int], dict]] = {
    OURS: lambda *given: graphs.pack_graph(*given, mode=None),
    ACCELERATED: lambda *given: graphs.pack_graph(*given, mode="auto"),
    BF16: lambda *given: graphs.pack_graph(*given, mode="bf16"),
    CORE: lambda *given: graphs.core_graph(*given, "SaveImage"),
    CORE_WEBSOCKET: lambda *given: graphs.core_graph(*given, "SaveImageWebsocket"),
    CORE_COMPILED: lambda *given: graphs.core_graph(*given, "SaveImage", compiled=True),
}
DIFFUSERS_MODES = {
    "diffusers": "eager",
    "diffusers, compiled": "default",
    "diffusers, max-autotune": "max-autotune",
    "diffusers, reduce-overhead": "reduce-overhead",
}
COMPILED_VARIANTS = (CORE_COMPILED, *(name for name, mode in DIFFUSERS_MODES.items() if mode != "eager"))
GPU_VARIANTS = ("diffusers, max-autotune", "diffusers, reduce-overhead")
# What --only chooses from.
VARIANT_GROUPS = {
    "ours": (OURS, ACCELERATED, BF16),
    "core": (CORE, CORE_WEBSOCKET),
    "core-compiled": (CORE_COMPILED,),
    "diffusers": ("diffusers",),
    "diffusers-compiled": tuple(name for name, mode in DIFFUSERS_MODES.items() if mode != "eager"),
}


class VariantError(Exception):
    """A variant that could not draw; the message says why."""


class GraphVariant:
    """A variant that the server draws."""

    def __init__(self, name: str, models: Models, client: comfyui.Client):
        self.name, self.models, self.client = name, models, client

    def draw(self, case: Case, text: str, seed: int) -> served.TimedPrompt:
        graph = GRAPH_BUILDERS[self.name](self.models, case, text, seed)
        try:
            return served.time_prompt(self.client, graph, case.batch)
        except comfyui.PromptError as error:
            raise VariantError(str(error)) from error


class DiffusersResult(NamedTuple):
    """What diffusers' process said: its pictures as files' bytes, and the seconds in all and in the model."""

    pictures: list[bytes]
    seconds: float
    model_s: float


class DiffusersVariant:
    """A variant that diffusers draws in a process of its own, with torch's allocator; first_peak is its memory in bytes."""

    def __init__(self, name: str, models: Models):
        self.name, self.first_peak = name, None
        lora = models.base / "models" / "loras" / models.lora
        command = [sys.executable, "-m", "bench.diffusers_process", DIFFUSERS_MODES[name], str(models.folder), str(lora)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.log = (WORK_DIR / f"{DIFFUSERS_MODES[name]}.log").open("w", encoding="utf-8")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=self.log, text=True
        )

    def draw(self, case: Case, text: str, seed: int, watch: bool = False) -> DiffusersResult:
        try:
            print(json.dumps(dict(case=case, text=text, seed=seed, watch=watch)), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise VariantError(f"its process ended; the end of its log is in {self.log.name}") from error
        if "error" in answer:
            raise VariantError(answer["error"])
        self.first_peak = self.first_peak or answer["peak"]
        pictures = [base64.b64decode(picture) for picture in answer["pictures"]]
        return DiffusersResult(pictures, answer["seconds"], answer["model"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()
