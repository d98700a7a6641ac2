"""Modules as OpenVINO graphs (docs.openvino.ai) for processors. OpenVINO is optional: `pip install openvino`.

A graph holds no weights: it is converted once for each structure of a module and kept on disk, and the weights of a model,
with its LoRAs, are bound to it in a moment.
"""

import functools
import hashlib
import importlib.util
import logging
import os
import sys
import threading
import types
import uuid
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from comfyui_version import __version__

INSTALLED = importlib.util.find_spec("openvino") is not None
GRAPH_FORMAT_VERSION = 1  # of the graphs: another way to convert them has another number
# Layers of the host ask at each call whether the user has cancelled, and take the wish away; torch's own do not.
TORCH_LAYERS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
MAX_FAILURES = 3  # runs, one after the other
MAX_ERROR = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of an output, by its largest value; a graph's is 1e-6 or 1e-2
PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
HEADROOM_BYTES = 2**29  # that must be free to compile a graph or to call one, beside HEADROOM_FACTOR times its output
HEADROOM_FACTOR = 100  # for TAESD's 64 channels
conversion_lock = threading.Lock()  # one at a time: who waited for the same structure finds it on disk
verified_files: set[Path] = set()  # whose graph has given a module's output in this process


def import_openvino():
    """The openvino package, without the usage statistics that it sends to its makers when they can be imported."""
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@functools.cache
def core():
    """OpenVINO's Core, one for the process as its makers advise."""
    return import_openvino().Core()


def are_finite(weights: Iterable[torch.Tensor]) -> bool:
    """Whether a graph can have these weights: of NaN OpenVINO's ReLU makes zeros."""
    return all(weight.isfinite().all() for weight in weights)


class ParametersAsInputs(torch.nn.Module):
    """A module with its weights as inputs, after its own and in the order of named_parameters()."""

    def __init__(self, module: torch.nn.Module, call: Callable[..., torch.Tensor]):
        super().__init__()
        # Hidden from torch, which would record the weights as the module's own.
        self.__dict__["module"], self.__dict__["call"] = module, call
        self.__dict__["names"] = [name.rpartition(".") for name, _ in module.named_parameters()]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        first_weight = len(inputs) - len(self.names)
        for (parent, _, name), weight in zip(self.names, inputs[first_weight:], strict=True):
            self.module.get_submodule(parent)._parameters[name] = weight
        return self.call(self.module, *inputs[:first_weight])


class FailureCounter:
    """What kept a module from being called by OpenVINO since it last was. One may pass, as a lack of memory does."""

    def __init__(self, log_prefix: str):
        self.log_prefix, self.count, self.last_message = log_prefix, 0, None

    @property
    def are_too_many(self) -> bool:
        return self.count >= MAX_FAILURES

    def add(self, error: Exception) -> None:
        """Logs it in one line, and not twice in turn: OpenVINO's sentences have several. A lack of memory does not count."""
        self.count += not isinstance(error, MemoryError)
        sentence = " ".join(str(error).split())
        if sentence != self.last_message:
            logging.warning("%s without OpenVINO: %s", self.log_prefix, sentence)
        self.last_message = sentence

    def clear(self) -> None:
        self.count, self.last_message = 0, None


def graph_path(structure: str) -> Path:
    """The file of the graph of a structure: in $XDG_CACHE_HOME or ~/.cache, as the models of Hugging Face."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vega-rt" / "openvino"
    versions = [GRAPH_FORMAT_VERSION, __version__, torch.__version__, import_openvino().__version__]
    return folder / f"{hashlib.sha256(repr((structure, versions)).encode()).hexdigest()[:32]}.xml"


def convert(
    file: Path, module: torch.nn.Module, call: Callable[..., torch.Tensor], inputs: dict[str, tuple[torch.Tensor, list[int]]]
) -> None:
    """Writes the graph of call(module, *inputs), where it isn't yet; inputs are examples and their sizes, -1 for any.

    The module is the caller's alone, perhaps on the meta device. ~6 s on two cores for vega-nano's UNet, of which OpenVINO
    holds Python's lock for about one. OSError where the file can't be written.
    """
    with conversion_lock:
        if file.is_file():
            return
        openvino = import_openvino()
        for layer in module.modules():
            for kind in TORCH_LAYERS:
                if isinstance(layer, kind):
                    layer.forward = types.MethodType(kind.forward, layer)
        weights = [torch.zeros(weight.shape) for weight in module.parameters()]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of checks in the host's code, true for every size
            examples = tuple(example for example, _ in inputs.values())
            # Traced once: torch's comparison with a second trace counts the tensors in the weights' places.
            traced = torch.jit.trace(ParametersAsInputs(module.eval(), call), (*examples, *weights), check_trace=False)
            graph = openvino.convert_model(traced, example_input=(*examples, *weights))
        graph.reshape({port: size for port, (_, size) in zip(graph.inputs, inputs.values(), strict=False)})
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{uuid.uuid4().hex}.xml")
        openvino.save_model(graph, part, compress_to_fp16=False)
        # What the graph refers to first: another process that sees the graph finds it whole.
        part.with_suffix(".bin").replace(file.with_suffix(".bin"))
        part.replace(file)


def check_free_memory(output_bytes: int = 0) -> None:
    """MemoryError where memory is short: OpenVINO crashes there with the whole server, or gives wrong outputs for good."""
    try:
        # Never written to, so it takes no time.
        torch.empty(HEADROOM_BYTES + HEADROOM_FACTOR * output_bytes, dtype=torch.uint8)
    except RuntimeError:
        raise MemoryError("memory is short") from None


def clone_weights(weights: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Weights for CompiledGraph, which graphs may share."""
    return [weight.detach().contiguous().clone() for weight in weights]


class CompiledGraph:
    """A graph with weights bound to it, whose products are in dtype: fp32 gives the module's output within rounding.

    It reads the weights where they lie: they are to be its own. With the shapes of its inputs it is for those alone, which
    saves OpenVINO the work of finding every operation's shape in each call: a third of a call of vega-nano's UNet.
    """

    def __init__(
        self, file: Path, weights: list[torch.Tensor], dtype: torch.dtype, shapes: list[tuple[int, ...]] | None = None
    ):
        check_free_memory()
        self.file, self.weights, self.dtype, self.is_checked = file, weights, dtype, False
        openvino = import_openvino()
        try:
            graph = core().read_model(file)
            for parameter, weight in zip(graph.get_parameters()[-len(weights) :], weights, strict=True):
                constant = openvino.op.Constant(openvino.Tensor(weight.numpy(), shared_memory=True))
                parameter.output(0).replace(constant.output(0))
                graph.remove_parameter(parameter)
            if shapes:
                graph.reshape(dict(zip(graph.inputs, map(list, shapes), strict=True)))
            options = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                # Else every process of a server binds its threads to the same first cores.
                "ENABLE_CPU_PINNING": False,
            }
            self.model = core().compile_model(graph, "CPU", options)
        except (RuntimeError, ValueError):
            self.discard_file()
            raise

    def __call__(self, shape: tuple[int, ...], *inputs: torch.Tensor | None) -> torch.Tensor:
        """The output in fp32, of this shape. What a call needs beside the weights is given back at its end.

        The items of a batch are computed one after the other: each is what it is alone, to the last bit. RuntimeError for
        an output of another shape, as OpenVINO gives from when it once ran out of memory; MemoryError where it would.
        """
        output = torch.empty(shape)
        check_free_memory(output.nbytes)
        request = self.model.create_infer_request()
        try:
            for item in range(shape[0]):
                one = [tensor[item : item + 1].float().contiguous().numpy() for tensor in inputs if tensor is not None]
                request.infer(one, share_inputs=True)
                found = request.get_output_tensor(0).data
                if found.shape != (1, *shape[1:]):
                    wanted = [1, *shape[1:]]
                    raise RuntimeError(f"OpenVINO gave {list(found.shape)} and not {wanted}: is there memory enough?")
                output[item] = torch.from_numpy(found[0])
        finally:
            del request
            self.model.release_memory()
        return output

    def check(self, output: torch.Tensor, expected: torch.Tensor) -> None:
        """ValueError where an output isn't the module's within rounding: the file is damaged, or the module is another."""
        if (output - expected).abs().max() > MAX_ERROR[self.dtype] * expected.abs().max():
            self.discard_file()
            raise ValueError("OpenVINO's output is not the model's")
        self.is_checked = True
        verified_files.add(self.file)

    def discard_file(self) -> None:
        """So that the next process makes it anew; not where the fault can't be the file's."""
        if self.file not in verified_files:
            self.file.unlink(missing_ok=True)
