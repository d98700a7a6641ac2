"""Runs the HTTP API on this machine until Ctrl-C: `python dev/serve_api.py REPLICAS`; models go into .comfyui/models."""

import os
import sys

import comfyui
import host

if __name__ == "__main__":
    command = [sys.executable, "-m", "serve", "--comfyui", str(host.path()), "--replicas", *sys.argv[1:]]
    os.chdir(host.ROOT)
    os.execv(sys.executable, [*command, *comfyui.prepare(host.ROOT / ".comfyui")])
