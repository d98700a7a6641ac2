"""Calls recorded once as CUDA graphs and replayed without Python (docs.pytorch.org/docs/stable/notes/cuda.html)."""

import contextlib
import functools
from collections.abc import Callable

import torch


class RecordedCall:
    """run(*inputs) as a graph: called with inputs of the same shapes and dtypes, it gives what `run` would.

    run takes tensors (or None) on one CUDA device, gives a tensor like the first of them, and has been called with such
    inputs before. Its weights are read at every replay, from the addresses that they had at the recording.
    `share_pool_with` is another graph whose memory pool this one uses for intermediate tensors. Raises what CUDA raises if
    it can't be recorded.
    """

    def __init__(self, run: Callable, *inputs: torch.Tensor | None, share_pool_with: "RecordedCall | None" = None):
        # Made outside the recording, like the output: all that is allocated within is free again at its end.
        self.inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
        self.output = torch.empty_like(inputs[0])
        self.graph = torch.cuda.CUDAGraph()
        device = inputs[0].device
        stream, current = capture_stream(device), torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            run(*self.inputs)  # the libraries set up their workspaces for this stream
            torch.cuda.synchronize(device)
            pool = share_pool_with.graph.pool() if share_pool_with else torch.cuda.graph_pool_handle()
            # Other threads of the server may use the GPU meanwhile.
            self.graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self.output.copy_(run(*self.inputs))
            finally:
                try:
                    self.graph.capture_end()
                except RuntimeError:
                    end_recording(device, pool)
                    raise
        current.wait_stream(stream)

    def __call__(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        for buffer, tensor in zip(self.inputs, inputs, strict=True):
            if buffer is not None:
                buffer.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.output.clone()


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device, ever: cuBLAS keeps a workspace for every stream that it has seen."""
    return torch.cuda.Stream(device)


def end_recording(device: torch.device, pool: tuple[int, int]) -> None:
    """What torch leaves out where capture_end fails: else its allocator records on, frees nothing and starts no graph again.

    Private functions of torch, guarded by tests/test_accelerate.py.
    """
    with contextlib.suppress(RuntimeError):  # it had been ended
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)


def trim(device: torch.device) -> None:
    """Gives the memory of graphs that are gone back to the GPU, which CUDA keeps with the host's default allocator."""
    if device.type == "cuda" and torch.cuda.get_allocator_backend() == "cudaMallocAsync":
        with contextlib.suppress(ImportError):  # comes with torch on Linux; elsewhere the next graphs use the memory
            from cuda.bindings import runtime

            torch.cuda.synchronize(device)
            runtime.cudaDeviceGraphMemTrim(device.index)
