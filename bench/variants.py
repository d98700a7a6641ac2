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
from .weights import ROOT, WORK, Models

OURS, ACCELERATED, BF16 = "this pack", "this pack, accelerated", "this pack, bf16"
CORE, CORE_WEBSOCKET, CORE_COMPILED = "core, SaveImage", "core, SaveImageWebsocket", "core, TorchCompileModel, SaveImage"
GRAPHS: dict[str, Callable[[Models, Case, str, int], dict]] = {
    OURS: lambda *given: graphs.ours(*given, mode=None),
    ACCELERATED: lambda *given: graphs.ours(*given, mode="auto"),
    BF16: lambda *given: graphs.ours(*given, mode="bf16"),
    CORE: lambda *given: graphs.core(*given, "SaveImage"),
    CORE_WEBSOCKET: lambda *given: graphs.core(*given, "SaveImageWebsocket"),
    CORE_COMPILED: lambda *given: graphs.core(*given, "SaveImage", compiled=True),
}
DIFFUSERS = {
    "diffusers": "eager",
    "diffusers, compiled": "default",
    "diffusers, max-autotune": "max-autotune",
    "diffusers, reduce-overhead": "reduce-overhead",
}
COMPILED = (CORE_COMPILED, *(name for name, mode in DIFFUSERS.items() if mode != "eager"))
NEEDS_GPU = ("diffusers, max-autotune", "diffusers, reduce-overhead")
# What --only chooses from.
GROUPS = {
    "ours": (OURS, ACCELERATED, BF16),
    "core": (CORE, CORE_WEBSOCKET),
    "core-compiled": (CORE_COMPILED,),
    "diffusers": ("diffusers",),
    "diffusers-compiled": tuple(name for name, mode in DIFFUSERS.items() if mode != "eager"),
}


class Failed(Exception):
    """A variant that could not draw; the message says why."""


class Graph:
    """A variant that the server draws."""

    def __init__(self, name: str, models: Models, client: comfyui.Client):
        self.name, self.models, self.client = name, models, client

    def draw(self, case: Case, text: str, seed: int) -> served.Drawing:
        graph = GRAPHS[self.name](self.models, case, text, seed)
        try:
            return served.draw(self.client, graph, case.batch)
        except comfyui.PromptError as error:
            raise Failed(str(error)) from error


class Answer(NamedTuple):
    """What diffusers' process said: its pictures as files' bytes, and the seconds in all and in the model."""

    pictures: list[bytes]
    seconds: float
    model: float


class Diffusers:
    """A variant that diffusers draws in a process of its own, with torch's allocator; first_peak is its memory in bytes."""

    def __init__(self, name: str, models: Models):
        self.name, self.first_peak = name, None
        lora = models.base / "models" / "loras" / models.lora
        command = [sys.executable, "-m", "bench.diffusers_process", DIFFUSERS[name], str(models.folder), str(lora)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.log = (WORK / f"{DIFFUSERS[name]}.log").open("w", encoding="utf-8")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=self.log, text=True
        )

    def draw(self, case: Case, text: str, seed: int, watch: bool = False) -> Answer:
        try:
            print(json.dumps(dict(case=case, text=text, seed=seed, watch=watch)), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise Failed(f"its process ended; the end of its log is in {self.log.name}") from error
        if "error" in answer:
            raise Failed(answer["error"])
        self.first_peak = self.first_peak or answer["peak"]
        pictures = [base64.b64decode(picture) for picture in answer["pictures"]]
        return Answer(pictures, answer["seconds"], answer["model"])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()
