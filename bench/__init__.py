"""Measurements: this pack, ComfyUI's own nodes and diffusers on one machine, in one run; start with `python -m bench`."""

import sys
from pathlib import Path

# The server and its client, and the published models' shapes, are there already.
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("dev", "tests")]
