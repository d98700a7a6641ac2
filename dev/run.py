"""Runs the server until Ctrl-C; models go into .comfyui/models."""

import contextlib
import sys

from . import comfyui, host

if __name__ == "__main__":
    try:
        with comfyui.serve(host.ROOT / ".comfyui") as server:
            print(
                f"ComfyUI runs at {server.url} (models in {server.base / 'models'}, log in {server.log}); Ctrl-C stops it."
            )
            with contextlib.suppress(KeyboardInterrupt):
                server.process.wait()
    except RuntimeError as error:
        sys.exit(str(error))
