"""The README's table of what loads is what the tests of this run loaded."""

import os

import loads
import pytest


@pytest.fixture(autouse=True)
def after_the_tests_that_load():
    if not loads.SEEN:
        pytest.skip("compares what test_bases.py and test_lora.py loaded in the same run: run the whole suite")


def test_the_table_has_what_loaded():
    stated = loads.in_readme()
    for form, families in loads.SEEN.items():
        assert families <= stated.get(form, set()), f"{form}: `make table` writes the README's table anew"


@pytest.mark.soak
def test_the_table_is_what_loaded():
    if os.environ.get("WRITE_TABLE"):
        loads.write()
    assert loads.in_readme() == loads.SEEN, "`make table` writes the README's table anew"
