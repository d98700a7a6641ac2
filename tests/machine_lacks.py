"""What tests need of the machine beyond Python: where it is missing they say so, or fail in CI, which installs it."""

import os
import shutil

import pytest


def lacks(what: str) -> None:
    (pytest.fail if os.environ.get("VEGA_REQUIRE_BROWSER") else pytest.skip)(f"this machine lacks {what}")


def program(name: str) -> str:
    """Its path."""
    found = shutil.which(name)
    if not found:
        lacks(f"{name} on the PATH")
    return found
