"""Tools for development, tests and measurements: the real ComfyUI server, Chromium, model files with random weights."""
