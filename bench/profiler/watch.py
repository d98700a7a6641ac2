"""Wraps the host's executor, so that the benchmark can ask it where a prompt's time went.

POST /bench/watch {"on": true} starts it and answers with the seconds that models computed since the last such call;
GET /bench/spans is the last prompt as [what, node id, began, ended] in seconds of time.perf_counter, which the processes of
one machine share; GET /bench/peak is the most memory so far, in bytes.
While it watches, a GPU is waited for at both ends of every span.
"""

import asyncio
import contextlib
import functools
import sys
import time

import comfy.model_patcher
import comfy.sd
import execution
import torch
from aiohttp import web
from comfy_api.v0_0_2 import ComfyExtension, io
from server import PromptServer

from .memory import peak

is_watching = False
current_spans, last_spans = [], []  # spans of the prompt that runs, and of the one before
model_seconds = 0.0  # seconds of all models' calls since watching began


def synchronized_time() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def model_modules(value) -> list[tuple[str, torch.nn.Module]]:
    """The modules behind a node's input whose time is the model's and not the host's."""
    if isinstance(value, comfy.model_patcher.ModelPatcher):
        return [("unet", value.model.diffusion_model)]
    if isinstance(value, comfy.sd.VAE):
        return [("decoder", value.first_stage_model.taesd_decoder)]
    if isinstance(value, comfy.sd.CLIP):
        return [("encoder", part.transformer) for part in value.cond_stage_model.children()]
    return []


def record_span(what: str, began: float) -> None:
    global model_seconds
    current_spans.append((what, None, began, synchronized_time()))
    model_seconds += current_spans[-1][3] - began


def add_timing_hooks(what: str, module: torch.nn.Module) -> list:
    began = []
    return [
        module.register_forward_pre_hook(lambda *_: began.append(synchronized_time())),
        module.register_forward_hook(lambda *_: record_span(what, began.pop())),
    ]


@contextlib.contextmanager
def time_cpu_decoder():
    """The pack's decoder on processors, which calls no module where it has a graph."""
    pack = next((module for name, module in sys.modules.items() if name.endswith(".vega.cpu_decoder")), None)
    if pack is None:  # another variant's server
        yield
        return
    real = pack.decode

    def decode(*inputs):
        global model_seconds
        spans, before, began = len(current_spans), model_seconds, synchronized_time()
        output = real(*inputs)
        model_seconds = before  # a module that was called is within this call
        del current_spans[spans:]
        record_span("decoder", began)
        return output

    pack.decode = decode
    try:
        yield
    finally:
        pack.decode = real


def wrap_node(real):
    @functools.wraps(real)
    async def get_output_data(prompt_id, unique_id, obj, input_data_all, *args, **kwargs):
        if not is_watching:
            return await real(prompt_id, unique_id, obj, input_data_all, *args, **kwargs)
        values = [value for values in input_data_all.values() for value in values]
        hooks = [hook for value in values for part in model_modules(value) for hook in add_timing_hooks(*part)]
        began = synchronized_time()
        try:
            with time_cpu_decoder():
                answer = await real(prompt_id, unique_id, obj, input_data_all, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        tasks = [item for item in answer[0] if isinstance(item, asyncio.Task)]
        if tasks:  # the executor goes on with other nodes meanwhile
            tasks[-1].add_done_callback(lambda _: current_spans.append(("node", unique_id, began, synchronized_time())))
        else:
            current_spans.append(("node", unique_id, began, synchronized_time()))
        return answer

    return get_output_data


def wrap_prompt(real):
    @functools.wraps(real)
    def execute(*args, **kwargs):
        current_spans.clear()
        began = time.perf_counter()
        real(*args, **kwargs)
        current_spans.append(("prompt", None, began, time.perf_counter()))
        last_spans[:] = current_spans

    return execute


class ProfilerExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return []


execution.get_output_data = wrap_node(execution.get_output_data)
execution.PromptExecutor.execute = wrap_prompt(execution.PromptExecutor.execute)


@PromptServer.instance.routes.post("/bench/watch")
async def post_watch(request):
    global is_watching, model_seconds
    is_watching = (await request.json())["on"]
    seconds, model_seconds = model_seconds, 0.0
    return web.json_response(seconds)


@PromptServer.instance.routes.get("/bench/spans")
async def get_spans(request):
    return web.json_response(last_spans)


@PromptServer.instance.routes.get("/bench/peak")
async def get_peak(request):
    return web.json_response(peak())
