"""A UNet on a processor: on packed weights, or as an OpenVINO graph where the UNet is small."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.cli_args import args
from comfy.ldm.modules import attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from . import heap, module_tree, openvino_graph, packed_layers, trained_size
from .latent_formats import PIXELS_PER_LATENT
from .packed_layers import PackedLayers

MAX_GRAPHS = 8  # of so many strengths of a LoRA, and sizes that have graphs of their own, the last used
# Of a small UNet. In a larger one arithmetic takes nearly all of the time: packed layers are as fast as a graph, without a
# second copy of the weights, and bf16 saves most of it.
MAX_SMALL_PARAMETERS = 20_000_000
MEMORY_FACTOR = 1.5  # of the packed weights must be free before the first is packed
CPU_DEVICE = torch.device("cpu")


def supports_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (AVX512-BF16, AMX, or BF16 of Arm); emulated it is slow."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))


class CpuUNet:
    """One UNet, with products in dtype: fp32 gives the host's output within rounding, bf16 one nearby.

    A small UNet's are in fp32 always, on packed weights and in a graph. A first step magnifies what bf16 has rounded in the
    noise by 1 / sqrt(alpha_bar) = 15: vega-nano's pictures were 35 to 54 dB from the exact ones, and 13 % faster.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.packed = PackedLayers(dtype)
        self.graphs: OrderedDict[tuple, openvino_graph.CompiledGraph] = OrderedDict()  # (weights' digest, shapes) -> graph
        self.digest = None  # of the weights that are loaded; empty where no graph can be made of them
        self.modules = []  # of the UNet, when it ran last
        self.thread = None  # that converts the structure
        self.is_paused = False  # OpenVINO, until the next run: a picture is drawn in one way
        self.failures = openvino_graph.FailureCounter("Accelerate (Vega) draws")

    def clear(self) -> None:
        """Gives all memory back."""
        self.weights_changed()
        if self.graphs:
            self.graphs.clear()
            heap.trim()

    def weights_changed(self) -> None:
        """Forgets what was made of the weights, except the graphs: they have copies and are told by their digests."""
        self.digest = None
        self.forget_packed()

    def forget_packed(self) -> None:
        if self.packed.forwards:
            self.packed.clear()
            heap.trim()

    def __call__(
        self, patcher: comfy.model_patcher.ModelPatcher, unet: torch.nn.Module, *inputs: torch.Tensor | None
    ) -> tuple[torch.Tensor, str]:
        """The UNet's output for (x, timesteps, context, y), in x's dtype; and which of accelerate.STATES gave it."""

        def by_host() -> torch.Tensor:
            return unet.forward(*inputs, transformer_options=attention_options())

        if graph := self.graph(patcher, unet, inputs):
            try:
                output = graph(inputs[0].shape, *inputs).to(inputs[0].dtype)
                if not graph.is_checked:
                    graph.check(output, by_host())
                self.failures.clear()
                self.forget_packed()
                return output, "openvino"
            except comfy.model_management.InterruptProcessingException:
                raise
            except Exception as error:  # OpenVINO's, above all of memory; what it compiled is of no use any more
                self.graphs.clear()
                self.record_failure(error)
        if not self.packed.forwards:
            self.packed.dtype = torch.float32 if is_small(module_tree.modules(unet)) else self.dtype
            if not self.ensure_memory(patcher.model, unet):
                if self.packed.dtype != torch.float32:
                    raise torch.OutOfMemoryError("there is no memory for the UNet's weights in bf16")
                return by_host(), "notUsed"
        return self.call_packed(unet, *inputs), "packed"

    def ensure_memory(self, model: torch.nn.Module, unet: torch.nn.Module) -> bool:
        """Whether there is memory to pack the weights, if need be by forgetting what the model's other mode has packed."""
        if has_memory(unet, self.packed.dtype):
            return True
        for cache in model.children():
            other = getattr(cache, "cpu", None)  # a method, of all other modules
            if isinstance(other, CpuUNet) and other is not self:
                other.forget_packed()
        return has_memory(unet, self.packed.dtype)

    def record_failure(self, error: Exception) -> None:
        self.is_paused = True
        self.failures.add(error)

    def begin(self, unet: torch.nn.Module) -> None:
        """A run begins: what others have changed in place since the last one is noticed.

        Of a weight its first value is compared (accelerate.weight_fingerprint).
        """
        modules = module_tree.modules(unet)
        if modules != self.modules:
            self.clear()
            self.modules = modules
        self.packed.check(modules)
        if self.digest and not can_be_graph(modules):
            self.digest = ""
        elif not self.digest:
            self.digest = None
        self.is_paused = self.failures.are_too_many or bool(self.thread and self.thread.is_alive())

    def call_packed(self, unet: torch.nn.Module, x, timesteps, context, y) -> torch.Tensor:
        """The UNet's output in x's dtype, with products in that of the packed weights."""
        dtype = self.packed.dtype
        x_packed = x.to(dtype, memory_format=torch.channels_last)
        context, y = context.to(dtype), y if y is None else y.to(dtype)
        with self.packed.in_use(unet):
            return unet.forward(x_packed, timesteps, context, y, transformer_options=attention_options()).to(x.dtype)

    def graph(
        self, patcher: comfy.model_patcher.ModelPatcher, unet: torch.nn.Module, inputs: tuple[torch.Tensor | None, ...]
    ) -> openvino_graph.CompiledGraph | None:
        """The graph with the weights that are loaded, for an item of such a batch; None where there can't be one.

        Its structure is converted beside the calls that follow, which takes seconds, once on a machine. Compiling it with
        these weights takes less than one and is waited for. A run that began without OpenVINO ends without it.

        One serves all sizes except the model's own squares: those have graphs for them alone, a third faster.

        In fp32 always: in bf16 OpenVINO rounds sums as well (43 dB on the pictures of vega-nano's first version).
        """
        if self.is_paused or not uses_core_attention():
            return None
        if self.digest is None:
            fits = can_be_graph(module_tree.modules(unet)) and openvino_graph.are_finite(unet.parameters())
            self.digest = weights_digest(unet) if fits else ""
        if not self.digest:
            return None
        shapes = [(1, *tensor.shape[1:]) for tensor in inputs if tensor is not None]
        if not has_own_graph(patcher, inputs[0]):
            shapes = []
        key = self.digest, *shapes
        if key in self.graphs:
            self.graphs.move_to_end(key)
            return self.graphs[key]
        self.attempt(self.make_graph, key, shapes, patcher.model.model_config.unet_config, unet)
        return self.graphs.get(key)

    def make_graph(self, key: tuple, shapes: list[tuple[int, ...]], unet_config: dict, unet: torch.nn.Module) -> None:
        file = graph_file(unet_config)
        if not file.is_file():
            self.thread = threading.Thread(target=self.attempt, args=(convert, unet_config, file))
            self.thread.start()
            self.is_paused = True
            return
        while len(self.graphs) >= MAX_GRAPHS:
            self.graphs.popitem(last=False)
        weights = next((graph.weights for (digest, *_), graph in self.graphs.items() if digest == self.digest), None)
        weights = weights or openvino_graph.clone_weights(unet.parameters())
        self.graphs[key] = openvino_graph.CompiledGraph(file, weights, torch.float32, shapes)

    def attempt(self, make: Callable, *arguments) -> None:
        """Remembers why it fails: another version of OpenVINO, a full disk."""
        try:
            make(*arguments)
        except Exception as error:
            self.record_failure(error)


def can_be_graph(modules: list[torch.nn.Module]) -> bool:
    """Whether OpenVINO is there, and the UNet of these modules, itself the first, the host's own, small and in fp32."""
    layers = (layer for layer in modules if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear))
    return (
        openvino_graph.INSTALLED
        and is_small(modules)
        and all(weight.dtype == torch.float32 for weight in module_tree.parameters(modules))
        and type(modules[0]) is UNetModel
        and all(map(packed_layers.can_pack, layers))
    )


def is_small(modules: list[torch.nn.Module]) -> bool:
    """Whether the UNet of these modules has at most MAX_SMALL_PARAMETERS weights."""
    return sum(weight.numel() for weight in module_tree.parameters(modules)) <= MAX_SMALL_PARAMETERS


def has_own_graph(patcher: comfy.model_patcher.ModelPatcher, x: torch.Tensor) -> bool:
    """Whether latents [B, 4, h, w] are of the square that the model draws best, or of three quarters or half of its side.

    vega-nano's live templates draw at three quarters, and graphs that were saved for its first version at half.
    """
    height, width = (PIXELS_PER_LATENT * side for side in x.shape[-2:])
    trained = trained_size.of_model(patcher)
    return trained is not None and height == width and width / trained.side_px in (0.5, 0.75, 1)


def graph_file(unet_config: dict) -> Path:
    """Where the graph of a UNet of this structure lies."""
    return openvino_graph.graph_path(repr(sorted(unet_config.items(), key=str)))


def convert(unet_config: dict, file: Path) -> None:
    """Writes the graph of a UNet of this structure, where it isn't on disk yet."""
    if file.is_file():
        return
    unet = UNetModel(**unet_config, device="meta", operations=comfy.ops.disable_weight_init)
    features = unet_config["context_dim"]
    inputs = {
        "x": (torch.zeros(1, 4, 16, 16), [-1, 4, -1, -1]),
        "timesteps": (torch.ones(1), [-1]),
        "context": (torch.zeros(1, 77, features), [-1, -1, features]),
    }
    if unet.num_classes is not None:
        size = unet_config["adm_in_channels"]
        inputs["y"] = torch.zeros(1, size), [-1, size]
    openvino_graph.convert(file, unet, call_unet, inputs)


def call_unet(unet: UNetModel, x, timesteps, context, y=None) -> torch.Tensor:
    """The host's UNet without anybody's options, with torch's own attention."""
    return unet.forward(x, timesteps, context, y, transformer_options=torch_attention())


def uses_core_attention() -> bool:
    """Whether attention is the host's, and no other pack's and nobody's choice on the command line."""
    hosts = (attention.attention_sub_quad, attention.attention_split, attention.attention_pytorch)
    chosen_by_user = args.use_split_cross_attention or args.use_quad_cross_attention
    return attention.optimized_attention in hosts and not chosen_by_user


def attention_options() -> dict:
    """torch's attention in place of the host's for processors, but of nobody else's."""
    return torch_attention() if uses_core_attention() else {}


def torch_attention() -> dict:
    """The option for torch's attention instead of the host's for processors, which asks for the free memory each time."""
    return {"optimized_attention_override": lambda _, *given, **more: attention.attention_pytorch(*given, **more)}


def has_memory(unet: torch.nn.Module, dtype: torch.dtype) -> bool:
    """Whether the packed weights fit beside all else that is in memory."""
    packed = dtype.itemsize * sum(weight.numel() for weight in unet.parameters())
    return comfy.model_management.get_free_memory(CPU_DEVICE) >= MEMORY_FACTOR * packed


def weights_digest(unet: torch.nn.Module) -> str:
    """What tells these weights from others, also when they lie elsewhere."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in unet.parameters():
        digest.update(weight.detach().contiguous().numpy())
    return digest.hexdigest()
