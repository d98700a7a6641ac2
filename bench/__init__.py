"""Measurements: this pack, ComfyUI's own nodes and diffusers on one machine, in one run; start with `python -m bench`."""
