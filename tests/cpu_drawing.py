"""Accelerate (Vega) on a processor, as its tests look at it."""

import pytest
from graph_recorder import draw
from vega_pack.vega import accelerate, cpu_unet, openvino_graph

needs_bf16 = pytest.mark.skipif(not cpu_unet.supports_bf16(), reason="this processor has no bf16 arithmetic")


def assert_close(drawn, expected):
    """Within rounding."""
    assert (drawn - expected).abs().max() <= 1e-5 * expected.abs().max()


def cpu_unet_of(model) -> cpu_unet.CpuUNet:
    return accelerate.get_cache(model).cpu


def forget(model) -> None:
    """What was made of a model is not there any more, as in a new process."""
    openvino_graph.verified_files.clear()
    for mode in accelerate.CPU_DTYPES:
        cache = getattr(model.model, accelerate.cache_attribute(mode), None)
        if cache and cache.cpu.thread:
            cache.cpu.thread.join()
        setattr(model.model, accelerate.cache_attribute(mode), None)


def graphed(model, positive, mode="auto"):
    """The accelerated model, its graph made."""
    fast = accelerate.apply(model, mode)
    draw(fast, positive, steps=1)
    if cpu_unet_of(fast).thread:
        cpu_unet_of(fast).thread.join()
        draw(fast, positive, steps=1)
    return fast


def states(fast, positive, **size) -> set[str]:
    """How the calls of a picture are answered."""
    told = []
    accelerate.get_cache(fast).report = lambda state, *_: told.append(state)
    draw(fast, positive, **size)
    return set(told)
