"""The least time that a chip needs for a piece of arithmetic: for each operation the longer of computing and moving.

An operation's FLOP are torch.utils.flop_counter's; its bytes are its inputs read once and its outputs written once, so a
view costs nothing. The chip's rates are measured. Where tensors stay in a cache, less time than this can be enough.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_flop_count

from .machine import DEVICE, DTYPE, GPU, Case

PROMPT_TOKENS = 77
MATRIX_SIZE = 8192 if GPU else 2048  # side of the product that is timed
COPY_BYTES = 2**30 if GPU else 2**28
REPEATS = 10


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def cpu_attention_flop(query_shape, key_shape, value_shape, *args, **kwargs) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)


class Operation(NamedTuple):
    flop: int
    bytes_moved: int  # bytes


class Rates(NamedTuple):
    flop_per_second: float
    bytes_per_second: float


class OperationCounter(TorchDispatchMode):
    """Collects the operations that run under it, except those that only make a view or an empty tensor."""

    def __init__(self):
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        read = {id(x): x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        written = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if read and written and not func.is_view:
            formula = flop_registry.get(func.overloadpacket)
            flop = formula(*args, **kwargs, out_val=out) if formula else 0
            self.operations.append(Operation(flop, sum(map(stored_bytes, [*read.values(), *written]))))
        return out


def stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes of memory behind a tensor: an expanded one has fewer than its shape says."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def count_operations(module: torch.nn.Module, *inputs, **named) -> list[Operation]:
    """What one call of a module does; it and its inputs are on the meta device, and nothing is computed."""

    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")

    given = module.state_dict(), inputs, named
    # On the meta device attention would be counted as the products that a fused kernel never writes to memory.
    with FakeTensorMode(), torch.no_grad():
        weights, inputs, named = tree_map_only(torch.Tensor, like, given)
        with OperationCounter() as count:
            torch.func.functional_call(module, weights, inputs, named)
    return count.operations


def roofline_seconds(operations: list[Operation], rates: Rates) -> float:
    return sum(max(op.flop / rates.flop_per_second, op.bytes_moved / rates.bytes_per_second) for op in operations)


def count_unet_call(config: dict, size: int, batch: int) -> list[Operation]:
    """One call of the UNet with this diffusers config."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).to(DTYPE)
        latent = torch.empty(batch, 4, size // 8, size // 8, dtype=DTYPE)
        text = torch.empty(batch, PROMPT_TOKENS, unet.config.cross_attention_dim, dtype=DTYPE)
        added = None
        if unet.config.addition_embed_type:  # SDXL and its like
            pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
            added = {"text_embeds": torch.empty(batch, pooled, dtype=DTYPE), "time_ids": torch.empty(batch, 6, dtype=DTYPE)}
        return count_operations(unet, latent, torch.empty(batch), encoder_hidden_states=text, added_cond_kwargs=added)


def count_tiny_decode(size: int, batch: int) -> list[Operation]:
    """One call of TAESD's decoder."""
    with torch.device("meta"):
        decoder = AutoencoderTiny().decoder.to(DTYPE)
        return count_operations(decoder, torch.empty(batch, 4, size // 8, size // 8, dtype=DTYPE))


def case_roofline(config: dict, case: Case, rates: Rates) -> dict:
    """The roofline of a case's UNet calls and its decode: seconds, FLOP and bytes."""
    operations = case.steps * count_unet_call(config, case.size, case.batch) + count_tiny_decode(case.size, case.batch)
    totals = {"flop": sum(op.flop for op in operations), "bytes": sum(op.bytes_moved for op in operations)}
    return {"seconds": roofline_seconds(operations, rates), **totals}


def measure_rates() -> Rates:
    """What this chip does at most: a big product in the measured dtype, a big copy counted as read and written."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=DEVICE).fill_(1)
    target = torch.empty_like(source).fill_(0)  # on a CPU memory is only there once it was written
    return Rates(matmul_flop_per_second(DTYPE), 2 * COPY_BYTES / min_seconds(lambda: target.copy_(source)))


def matmul_flop_per_second(dtype: torch.dtype) -> float:
    """FLOP/s of a product of two large matrices.

    On a CPU it is oneDNN's with a packed weight: MKL's, which torch.mm is, can take twice the time on AMD's.
    """
    a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=DEVICE).to(dtype) for _ in range(2))
    if GPU or not torch.backends.mkldnn.is_available():
        seconds = min_seconds(lambda: torch.mm(a, b))
    else:
        packed = torch.ops.mkldnn._reorder_linear_weight(b)
        seconds = min_seconds(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    return 2 * MATRIX_SIZE**3 / seconds


def min_seconds(run: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs, the first of which warms up."""
    times = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        run()
        if GPU:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])
