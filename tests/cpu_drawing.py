"""Accelerate (Vega) on a processor, as its tests look at it."""

import pytest
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
