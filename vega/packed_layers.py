"""Convolutions and linear layers on weights that lie as oneDNN's kernels read them, on a processor.

torch reorders the weight of a convolution at every call; here that happens once. The operations are those that
torch.compile uses (torch/_inductor/mkldnn_ir.py): private ones, guarded by tests/test_cpu_unet.py.
"""

import contextlib
from collections.abc import Callable, Iterator

import comfy.ops
import torch

from . import module_tree

HOST_OPS = comfy.ops.disable_weight_init  # whose layers have the functions of all its ways to cast weights
NO_POST_OP = ("none", [], "")  # attr, scalars, algorithm: nothing is fused to the operation


class PackedLayers:
    """The packed weights of one UNet, each made when its layer is first used; dtype is that of the arithmetic."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.forwards: list[tuple[torch.nn.Module, Callable]] = []

    def clear(self) -> None:
        self.forwards.clear()

    def check(self, modules: list[torch.nn.Module]) -> None:
        """Forgets all where other layers can be packed than were: somebody has changed one in place."""
        if self.forwards and [layer for layer, _ in self.forwards] != list(filter(can_pack, modules)):
            self.clear()

    @contextlib.contextmanager
    def in_use(self, unet: torch.nn.Module) -> Iterator[None]:
        """Within it the layers of the UNet compute with packed weights; what it was, it is again afterwards."""
        if any("forward" in layer.__dict__ for layer, _ in self.forwards):
            yield  # somebody else has put one there for this call
            return
        if not self.forwards:
            layers = filter(can_pack, module_tree.modules(unet))
            self.forwards = [(layer, packed_forward(layer, self.dtype)) for layer in layers]
        # Past Module.__setattr__, which would take as long as a small layer.
        for layer, forward in self.forwards:
            layer.__dict__["forward"] = forward
        try:
            yield
        finally:
            for layer, _ in self.forwards:
                layer.__dict__.pop("forward", None)


def can_pack(layer: torch.nn.Module) -> bool:
    """Whether the layer is the host's own, as it is, and oneDNN's operation on a packed weight gives what it gives."""
    if isinstance(layer, torch.nn.Conv2d):
        hosts, own = HOST_OPS.Conv2d, ("forward", "forward_comfy_cast_weights", "_conv_forward")
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
    elif isinstance(layer, torch.nn.Linear):
        hosts, own = HOST_OPS.Linear, ("forward", "forward_comfy_cast_weights")
    else:
        return False
    is_hosts = all(getattr(type(layer), name) is getattr(hosts, name) and name not in vars(layer) for name in own)
    return is_hosts and not layer.weight_function and not layer.bias_function


def packed_forward(layer: torch.nn.Module, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward of a layer with its weight packed at the first call."""
    if isinstance(layer, torch.nn.Linear):
        pack, compute = pack_linear, packed_linear
    else:
        pack, compute = (pack_pointwise, packed_pointwise) if is_pointwise(layer) else (pack_conv, packed_conv)
    weight = bias = None

    def forward(x: torch.Tensor) -> torch.Tensor:
        nonlocal weight, bias
        comfy.ops.run_every_op()  # as the host's layers do: it stops here when the user interrupts
        if weight is None:
            weight = pack(layer, layer.weight.detach().to(dtype))
            bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        return compute(layer, x, weight, bias)

    return forward


def pack_conv(layer: torch.nn.Conv2d, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_convolution_weight(
        weight, list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
    )


def packed_conv(layer: torch.nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups, *NO_POST_OP
    )


def is_pointwise(layer: torch.nn.Conv2d) -> bool:
    """Whether the convolution is a linear layer of each pixel's channels."""
    return layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0)


def pack_pointwise(layer: torch.nn.Conv2d, weight: torch.Tensor) -> torch.Tensor:
    return pack_linear(layer, weight.flatten(1))


def packed_pointwise(
    layer: torch.nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """oneDNN's convolutions of 1 x 1 reach a tenth of the speed of its products (2560 channels, 16 x 16, AVX512)."""
    return packed_linear(layer, x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def pack_linear(layer: torch.nn.Linear, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def packed_linear(layer: torch.nn.Linear, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *NO_POST_OP)
