"""A call recorded once as a CUDA graph and replayed without Python (docs.pytorch.org/docs/stable/notes/cuda.html)."""

from collections.abc import Callable

import torch


def record(run: Callable, *inputs: torch.Tensor | None) -> Callable:
    """run(*inputs), recorded: a function of inputs of the same shapes and dtypes that gives what `run` would.

    run takes tensors (or None) on the current CUDA device, gives a tensor like the first of them, and has been called
    with such inputs before: what the libraries set up at a first call can't be recorded. The weights that it reads are
    read again at every replay, from the addresses that they have now. Raises what CUDA raises if it can't be recorded.
    """
    static = [None if tensor is None else tensor.clone() for tensor in inputs]
    # Made outside the recording, like the inputs: all that is allocated within is free again at its end.
    output = torch.empty_like(static[0])
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    try:
        # Other threads of the server may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output.copy_(run(*static))
    finally:
        torch.cuda.set_stream(stream)  # torch leaves its own stream set where the recording failed

    def replay(*inputs: torch.Tensor | None) -> torch.Tensor:
        for buffer, tensor in zip(static, inputs, strict=True):
            if buffer is not None:
                buffer.copy_(tensor, non_blocking=True)
        graph.replay()
        return output.clone()

    return replay
