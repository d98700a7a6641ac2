"""The UNet's calls replayed from CUDA graphs or compiled, at the host's DIFFUSION_MODEL wrapper: below every sampler."""

import functools
import itertools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.ldm.modules import attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import CallbacksMP, WrapperExecutor, WrappersMP

from . import cpu_unet, cuda_graph, module_tree, sd15_blocks
from .cpu_unet import CpuUNet
from .latent_formats import PIXELS_PER_LATENT

MODES = ("auto", "cuda graph", "compile", "bf16", "off")
# What becomes of a call: it is the first of its size, is recorded, replayed, compiled only, drawn on packed weights or by
# OpenVINO, or runs as without this pack.
STATES = ("firstRun", "recording", "replaying", "compiled", "packed", "openvino", "notUsed")
CPU_DTYPES = {"cpu": torch.float32, "bf16": torch.bfloat16}  # of the products in the modes for processors
PATCH_KEY = "vega_accelerate"
# Keys that the host itself puts into transformer_options and on which the UNet's output does not depend (comfy/samplers.py,
# model_base.py, ldm/modules). Any other key may be a patch.
SAFE_OPTIONS = {
    "activations_shape",
    "block",
    "block_index",
    "callbacks",
    "cond_or_uncond",
    "original_shape",
    "prefetch_dynamic_vbars",
    "sample_sigmas",
    "sigmas",
    "transformer_index",
    "uuids",
    "wrappers",
}
MEMORY_FRACTION = 0.25  # of the device's memory, for all graphs of a model together
MAX_COMPILED_SHAPES = 64  # beyond it dynamo runs a function uncompiled; its own limit is 8


def resolve_mode(model: comfy.model_patcher.ModelPatcher, mode: str) -> str:
    """What a mode is on this machine: "auto" is "cuda graph" on NVIDIA GPUs, "cpu" on processors, and "off" elsewhere."""
    if mode != "auto":
        return mode
    if model.load_device.type == "cpu":
        return "cpu"
    on_nvidia = model.load_device.type == "cuda" and comfy.model_management.is_nvidia()
    return "cuda graph" if on_nvidia else "off"


def check_bf16(device: torch.device) -> None:
    """ValueError unless the device is a processor that multiplies bf16 itself."""
    if device.type != "cpu":
        raise ValueError(f"mode bf16 is for processors, and the model is on {device}: set mode to auto.")
    if not cpu_unet.supports_bf16():
        raise ValueError(
            "mode bf16 needs a processor with AVX512-BF16, AMX or Arm BF16, and this one has none: set mode to auto."
        )


def apply(
    model: comfy.model_patcher.ModelPatcher,
    mode: str,
    record: Callable = cuda_graph.RecordedCall,
    report: Callable[[str, int, int], None] | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone whose UNet calls are replayed ("cuda graph"), compiled and replayed ("compile"), or as they were ("off").

    What can't be replayed runs eagerly. No picture changes, except in "bf16": there the processor's products are in bf16, in
    the tiny decoder and in UNets that are not small.
    report(one of STATES, width, height in pixels) is called whenever a run comes to another state.
    ValueError for "bf16" where the processor has none, or the model is on another device.
    """
    sd15_blocks.check_patches(model)
    mode = resolve_mode(model, mode)
    if mode == "bf16":
        check_bf16(model.load_device)
    if mode == "off":
        for cache in filter(None, (getattr(model.model, cache_attribute(cpu_mode), None) for cpu_mode in CPU_DTYPES)):
            cache.clear()
    if mode == "off" and PATCH_KEY not in model.wrappers.get(WrappersMP.DIFFUSION_MODEL, {}):
        return model
    patched = model.clone()
    patched.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, PATCH_KEY)
    patched.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, PATCH_KEY)
    patched.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, PATCH_KEY)
    if mode == "off":
        return patched
    # On the model that all clones share: a new strength must not leave the graphs of the old one in memory.
    cache = getattr(model.model, cache_attribute(mode), None)
    if cache is None or (cache.mode, cache.record) != (mode, record):
        if cache is not None:
            cache.clear()
        cache = GraphCache(model.load_device, mode, record)
        setattr(model.model, cache_attribute(mode), cache)
    cache.report = report
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, PATCH_KEY, cache.wrapper)
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, PATCH_KEY, cache.on_pre_run)
    patched.add_callback_with_key(CallbacksMP.ON_CLEANUP, PATCH_KEY, cache.on_cleanup)
    return patched


def cache_attribute(mode: str) -> str:
    """The attribute of the host's model that has the GraphCache of a mode: on a processor each has its own."""
    return f"{PATCH_KEY}_{mode}" if mode in CPU_DTYPES else PATCH_KEY


def get_cache(model: comfy.model_patcher.ModelPatcher) -> "GraphCache | None":
    """What an accelerated model's calls go through."""
    for wrapper in model.wrappers.get(WrappersMP.DIFFUSION_MODEL, {}).get(PATCH_KEY, ()):
        return wrapper.__self__
    return None


def cpu_dtype(model: comfy.model_patcher.ModelPatcher) -> torch.dtype | None:
    """Of the mode of a model that is accelerated on a processor: in it the tiny decoder computes. Else None."""
    cache = get_cache(model)
    return cache.cpu.dtype if cache and cache.cpu else None


class GraphCache(torch.nn.Module):
    """The recorded calls of one UNet, by the shapes of their inputs.

    A child of the host's model, so that it learns when the host moves the weights, to make room or to patch them anew.
    """

    def __init__(self, device: torch.device, mode: str, record: Callable):
        super().__init__()
        self.device, self.mode, self.record = device, mode, record
        self.cpu = CpuUNet(CPU_DTYPES[mode]) if mode in CPU_DTYPES else None
        self.patcher = None  # whose run this is, if its calls can be replayed
        self.weights = None  # what the recorded calls read
        self.graphs = OrderedDict()  # key of a call -> (its replay, its memory in bytes), the last used at the end
        self.seen = set()  # keys of the calls that have run once, after which they can be recorded
        self.disabled = False
        self.report = None  # whom to tell of each state, and the last that was told in this run
        self.last_reported = None

    def _apply(self, fn, recurse=True):
        """torch's hook of every .to(): the weights get other addresses, and the host may want the memory."""
        self.weights_changed()
        return self

    def weights_changed(self) -> None:
        if self.cpu:
            self.cpu.weights_changed()
        else:
            self.clear()

    def clear(self) -> None:
        if self.cpu:
            self.cpu.clear()
        if self.graphs:
            self.graphs.clear()
            cuda_graph.trim(self.device)

    def on_pre_run(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        """The host is about to sample with the patcher, whose weights are loaded."""
        self.last_reported = None
        if self.cpu:
            self.cpu.begin(patcher.model.diffusion_model)
        self.patcher = weakref.ref(patcher) if is_static(patcher) else None
        if patcher.model.model_lowvram:  # what is recorded is void, and memory is short
            self.clear()
        elif self.patcher and (weights := weight_fingerprint(patcher)) != self.weights:
            self.weights_changed()
            self.weights = weights

    def on_cleanup(self, patcher: comfy.model_patcher.ModelPatcher) -> None:
        self.patcher = None

    def wrapper(self, executor: WrapperExecutor, *inputs, **others) -> torch.Tensor:
        """The host's DIFFUSION_MODEL wrapper: the UNet's output, replayed where that gives the same."""
        if self.disabled or not self.can_replay(executor, *inputs, **others):
            self.report_state("notUsed", inputs[0])
            return executor(*inputs, **others)
        comfy.model_management.throw_exception_if_processing_interrupted()  # the host asks in every layer
        try:
            return self.replay(executor.class_obj, *inputs[:4])
        except Exception as error:
            why, had_memory = str(error).partition("\n")[0] or type(error).__name__, not comfy.model_management.is_oom(error)
        # Here the error is gone, and with it what the failed call held.
        self.clear()
        self.report_state("notUsed", inputs[0])
        output = executor(*inputs, **others)  # raises as well, if it is the inputs' fault
        self.disabled = had_memory
        until = "from now on" if had_memory else "for this call"
        logging.warning("Accelerate (Vega) leaves this model as it is %s: %s", until, why)
        return output

    def report_state(self, state: str, x: torch.Tensor) -> None:
        height, width = (PIXELS_PER_LATENT * side for side in x.shape[-2:])
        if self.report and (state, width, height) != self.last_reported:
            self.last_reported = (state, width, height)
            self.report(*self.last_reported)

    def can_replay(self, executor: WrapperExecutor, *inputs, **others) -> bool:
        """Whether this call's output depends on nothing but the UNet's weights and its first four inputs."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not isinstance(executor.class_obj, UNetModel):
            return False
        patcher = self.patcher and self.patcher()
        _, _, _, _, control, transformer_options = inputs
        return (
            patcher is not None
            and patcher.current_hooks is None
            and executor.class_obj is patcher.model.diffusion_model
            and len(executor.wrappers) == 1
            and control is None
            and not others
            and transformer_options.keys() <= SAFE_OPTIONS
        )

    def replay(self, unet: torch.nn.Module, *inputs: torch.Tensor | None) -> torch.Tensor:
        """The UNet's output for (x, timesteps, context, y); a call is recorded the second time, after one warm-up."""
        if self.cpu:
            output, state = self.cpu(self.patcher(), unet, *inputs)
            self.report_state(state, inputs[0])
            return output
        compiles = self.mode == "compile"
        key = (
            attention.optimized_attention,  # other packs exchange it for their own
            *(tensor if tensor is None else (tensor.shape, tensor.stride(), tensor.dtype) for tensor in inputs),
        )
        if key in self.graphs:
            self.graphs.move_to_end(key)
            self.report_state("replaying", inputs[0])
            return self.graphs[key][0](*inputs)
        run = functools.partial(self.compiled_call if compiles else call_unet, unet)
        patcher, x = self.patcher(), inputs[0]
        memory = patcher.memory_required(x.shape)
        limit = MEMORY_FRACTION * comfy.model_management.get_total_memory(patcher.load_device)
        if key not in self.seen or memory > limit or (compiles and x.device.type != "cuda"):
            self.report_state("firstRun" if key not in self.seen else "compiled" if compiles else "notUsed", x)
            self.seen.add(key)
            with torch._dynamo.config.patch(recompile_limit=MAX_COMPILED_SHAPES) if compiles else nullcontext():
                return run(*inputs)
        while memory + sum(size for _, size in self.graphs.values()) > limit:
            self.graphs.popitem(last=False)
        shared = next((graph for graph, _ in self.graphs.values()), None)
        self.report_state("recording", x)
        self.graphs[key] = self.record(run, *inputs, share_pool_with=shared), memory
        self.report_state("replaying", x)
        return self.graphs[key][0](*inputs)

    @functools.cached_property
    def compiled_call(self) -> Callable:
        return torch.compile(call_unet_compiled, dynamic=False)


def call_unet(unet: torch.nn.Module, x, timesteps, context, y) -> torch.Tensor:
    """The host's UNet without anybody's options."""
    return unet.forward(x, timesteps, context, y, transformer_options={})


def call_unet_compiled(unet: torch.nn.Module, x, timesteps, context, y) -> torch.Tensor:
    """The same for torch.compile, to which attention that asks for the free memory is a new function every time."""
    asks = attention.optimized_attention in (attention.attention_sub_quad, attention.attention_split)
    options = cpu_unet.torch_attention() if asks else {}
    return unet.forward(x, timesteps, context, y, transformer_options=options)


def is_static(patcher: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the loaded weights and layers are what every call of the run will use."""
    model, unet = patcher.model, patcher.model.diffusion_model
    return not (
        patcher.is_dynamic()
        or model.model_lowvram
        or patcher.is_injected
        or patcher.weight_wrapper_patches
        or patcher.get_additional_models_with_key("multigpu")
        or any(name.split(".")[0] == "diffusion_model" for name in patcher.object_patches)
        or any(is_patched(module, is_submodule=module is not unet) for module in module_tree.modules(unet))
    )


def is_patched(module: torch.nn.Module, is_submodule: bool) -> bool:
    """Whether another function runs at each of its calls. Hooks count in submodules; the UNet's own run at replays too."""
    # One that was put back (the host's bypass LoRA does) is the class's own again.
    own_forward = getattr(module.forward, "__func__", None) is type(module).forward
    return is_submodule and bool(module._forward_hooks or module._forward_pre_hooks) or not own_forward


def weight_fingerprint(patcher: comfy.model_patcher.ModelPatcher) -> tuple:
    """What changes whenever the weights do: which patches are in them, and where each lies."""
    modules = module_tree.modules(patcher.model.diffusion_model)
    parameters = module_tree.parameters(modules)
    marks = [(w.data_ptr(), w.dtype) for w in itertools.chain(parameters, module_tree.buffers(modules))]
    if patcher.load_device.type == "cpu":  # where copies are made of them: a change in place is seen by one value of each
        marks.append(tuple(w[(0,) * w.ndim].item() for w in parameters))
    return patcher.model.current_weight_patches_uuid, *marks
