"""Which tier a test is in: by its marks, else by its fixtures. What each tier needs is told in pyproject.toml."""

import pytest

TIERS = ("unit", "model", "server", "browser", "gpu")  # each needs more than the one before it
OF_FIXTURES = {"nano": "model", "chain": "model", "server": "server", "page": "browser"}
OF_FIXTURES |= dict.fromkeys(("guarded", "keyed", "open_server"), "server")
COLLECTED = pytest.StashKey[list[pytest.Item]]()  # every test, also those that -m leaves out


def of(item: pytest.Item) -> set[str]:
    """One tier; two where the marks and the fixtures contradict each other, which test_tiers.py refuses."""
    marked = {mark.name for mark in item.iter_markers()} & set(TIERS)
    if item.path.parent.name == "gpu":
        return marked | {"gpu"}
    needed = {OF_FIXTURES[name] for name in item.fixturenames if name in OF_FIXTURES} or marked or {"unit"}
    return marked | {max(needed, key=TIERS.index)}
