"""On a ComfyUI that is too old the pack says in one line which one it needs, and promises no other anywhere."""

import asyncio
import logging
import re
from pathlib import Path

import comfyui_version
import pytest
import tomllib
from vega_pack import host_version

import nodes as host_nodes
from dev import host

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("version", ["0.3.48", "0.3.64", "0.9.2", "0.19.0", "0.24.0"])
def test_an_older_comfyui_is_refused_by_name(version, monkeypatch):
    monkeypatch.setattr(comfyui_version, "__version__", version)
    with pytest.raises(RuntimeError, match=re.escape(f"needs ComfyUI 0.24.1 or newer, and this is {version}:")):
        host_version.check_version()


@pytest.mark.parametrize("version", [*host.PINNED, "0.24.2", "0.33.0", "0.100.0", "1.0.0"])
def test_this_one_and_newer_ones_are_not(version, monkeypatch):
    monkeypatch.setattr(comfyui_version, "__version__", version)
    host_version.check_version()


def test_an_older_comfyui_logs_one_line(monkeypatch, caplog):
    """The log of an older ComfyUI gets one line and no traceback. Through the host's own loader."""
    monkeypatch.setattr(comfyui_version, "__version__", "0.24.0")
    with caplog.at_level(logging.INFO):
        assert not asyncio.run(host_nodes.load_custom_node(str(ROOT)))
    (line,) = caplog.messages
    assert line.endswith(": Vega RT needs ComfyUI 0.24.1 or newer, and this is 0.24.0: update ComfyUI.")


def test_the_same_version_is_promised_everywhere_and_tested():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["comfy"]
    assert metadata["requires-comfyui"] == f">={host_version.MIN_VERSION}"
    assert f"({host_version.MIN_VERSION} or newer)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert min(host.PINNED, key=host_version.parse_version) == host_version.MIN_VERSION
    assert f"\nHOSTS := {' '.join(host.PINNED)}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
