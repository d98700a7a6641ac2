"""Two ComfyUI processes draw more than one, and nothing else is in their way."""

import pytest

from bench import scale


@pytest.mark.server
@pytest.mark.soak
def test_pictures_a_second_grow_with_the_processes(record_property):
    one, two = found = scale.run()
    scale.write(found)
    ratio = one.load.seconds_per_picture / two.load.seconds_per_picture
    record_property("one thread each, 2 processes", round(ratio, 2))
    assert ratio >= 1.4
