"""One ComfyUI process with this pack, on a loopback port."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

START_TIMEOUT_SECONDS = 300.0
POLL_INTERVAL_SECONDS = 0.2
ROOT = Path(__file__).resolve().parents[1]


class HostProcess:
    """comfyui: the folder with main.py; arguments: ComfyUI's own command line options, such as --base-directory."""

    def __init__(self, comfyui: Path, arguments: list[str]):
        self.comfyui, self.arguments = comfyui, arguments
        self.process: subprocess.Popen | None = None
        self.url = ""
        self.key = {"x-api-key": secrets.token_hex(16)}  # the process's own: the gateway has checked the client's

    async def start(self) -> None:
        """Returns when the process answers HTTP. RuntimeError if it exits, or takes longer than START_TIMEOUT_SECONDS."""
        port = free_port()
        # By its path: `-m` would need the pack's root on PYTHONPATH, which ComfyUI would inherit.
        command = [sys.executable, str(Path(__file__).with_name("supervisor.py")), sys.executable]
        command += [str(self.comfyui / "main.py"), *self.arguments]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]  # argparse keeps the last value
        command += ["--database-url", "sqlite:///:memory:"]  # processes that share a base directory would lock a file
        environment = host_environment(os.environ) | {"VEGA_API_KEYS": self.key["x-api-key"]}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        self.url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(round(START_TIMEOUT_SECONDS / POLL_INTERVAL_SECONDS)):
                if not self.is_alive():
                    raise RuntimeError(f"ComfyUI ended with {self.process.returncode} while it started; its log says why.")
                try:
                    (await http.get(f"{self.url}/v1/openapi.json", headers=self.key)).raise_for_status()
                    return
                except httpx.HTTPError:
                    await asyncio.sleep(POLL_INTERVAL_SECONDS)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer within {START_TIMEOUT_SECONDS:.0f} s.")

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def wait_exit(self, timeout: float) -> None:
        """Returns when the process has exited, or after `timeout` seconds."""
        for _ in range(round(timeout / POLL_INTERVAL_SECONDS)):
            if not self.is_alive():
                return
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    def stop(self) -> None:
        """Closes the supervisor's standard input, so that it stops ComfyUI, and waits for it to exit."""
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def host_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """ComfyUI's environment: without the clients' keys, Ray's variables (among them its token) and the pack's root.

    The root on PYTHONPATH, where a cluster's Ray needs it, would make `api`, `nodes` and so on importable in the host and in
    other packs. Other entries of PYTHONPATH stay.
    """
    hidden = ("VEGA_API_KEYS", "RAY_")
    kept = {name: value for name, value in environment.items() if not name.upper().startswith(hidden)}
    paths = kept.pop("PYTHONPATH", "").split(os.pathsep)
    if paths := [path for path in paths if path and Path(path).resolve() != ROOT]:
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return kept


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
