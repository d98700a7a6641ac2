"""Weights as the host's layers take them, with dynamic VRAM and without."""

import comfy.memory_management
import comfy.ops
import torch


class EagerOps(comfy.ops.manual_cast):
    """The host's layers with their weights there from the start, to read the shapes that a model needs.

    With dynamic VRAM the host's Linear and Embedding have none until a state dict brings them; it spares subclasses
    that load state dicts by themselves (comfy/ops.py, guarded by tests/test_loading.py).
    """

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, *args):
            return super()._load_from_state_dict(*args)

    class Embedding(comfy.ops.manual_cast.Embedding):
        def _load_from_state_dict(self, *args):
            return super()._load_from_state_dict(*args)


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor as the host should be given it.

    With dynamic VRAM the host's Linear takes its dtype from the tensors it is given (comfy/ops.py, guarded by
    tests/test_loading.py). Elsewhere it casts them one by one, and casting all of them before would double the memory.
    """
    return tensor.to(dtype) if comfy.memory_management.aimdo_enabled else tensor
