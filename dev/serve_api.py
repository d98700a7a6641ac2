"""Runs the HTTP API on this machine until Ctrl-C: `python -m dev.serve_api REPLICAS`; models go into .comfyui/models."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from . import comfyui, host

START_SECONDS = 300


class ServeProcess(NamedTuple):
    """The API by Ray Serve: its process, its port and that of its metrics, and its log with those of its replicas."""

    process: subprocess.Popen
    port: int
    metrics: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def build_command(base: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "serve", "--comfyui", str(host.path()), *options, *comfyui.prepare_base(base)]


@contextmanager
def serve(base: Path, *options: str, **settings: str):
    """A Serving with `base` as its base directory, told to end on the way out; settings are environment variables."""
    base.mkdir(exist_ok=True)
    port, metrics, log = comfyui.free_port(), comfyui.free_port(), base / "serve.log"
    ports = ["--port", str(port), "--metrics-port", str(metrics)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", **settings}
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(
            build_command(base, *options, *ports), cwd=host.ROOT, stdout=sink, stderr=subprocess.STDOUT, env=environment
        )
    found = ServeProcess(process, port, metrics, log)
    try:
        end = time.monotonic() + START_SECONDS
        while "Vega API on" not in found.read_log():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"Ray Serve did not start; the end of {log}:\n{comfyui.tail_log(log)}")
            time.sleep(0.2)
        yield found
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    os.chdir(host.ROOT)
    os.execv(sys.executable, build_command(host.ROOT / ".comfyui", "--replicas", *sys.argv[1:]))
