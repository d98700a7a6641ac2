"""The README's table is what `make soak` loaded; in `make test` each test that loads looks for its own cell."""

import loads
import pytest


@pytest.mark.soak
def test_the_table_is_what_loaded():
    if not loads.SEEN:
        pytest.skip("compares what test_bases.py and test_lora.py loaded in the same run: run all of `make soak`")
    if loads.WRITES:
        loads.write()
    assert loads.in_readme() == loads.SEEN, "`make table` writes the README's table anew"
