"""Several ComfyUI processes draw more than one, and nothing else is in their way."""

import pytest

from bench import scale


@pytest.mark.server
@pytest.mark.soak
def test_pictures_a_second_grow_with_the_processes(record_property):
    real, stand_in = scale.run()
    scale.write(real, stand_in)
    for found, kind in ((real, "one thread each"), (stand_in, "stand-in for GPUs")):
        for one in found[1:]:
            record_property(f"{kind}, {one.replicas} processes", round(found[0].load.each / one.load.each, 2))
    one, two = real
    assert one.load.each / two.load.each >= 1.4
    one, two, four = stand_in
    assert one.load.each / two.load.each >= 1.8
    assert one.load.each / four.load.each >= 3.2
