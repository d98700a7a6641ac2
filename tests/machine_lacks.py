"""What tests need of the machine beyond Python: where it is missing they say so, or fail in CI, which installs it."""

import os
import shutil
import socket

import pytest


def lacks(what: str) -> None:
    (pytest.fail if os.environ.get("VEGA_REQUIRE_BROWSER") else pytest.skip)(f"this machine lacks {what}")


def program(name: str) -> str:
    """Its path."""
    found = shutil.which(name)
    if not found:
        lacks(f"{name} on the PATH")
    return found


def own_address() -> str:
    """One of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            lacks("an address besides loopback")
        return probe.getsockname()[0]
