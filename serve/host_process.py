"""One ComfyUI process with this pack, on a port of its own that only this machine reaches."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import httpx

START = 300.0  # seconds in which it must answer
LOOKS = 0.2  # seconds between two looks at whether it does


class HostProcess:
    """comfyui: the folder with its main.py; arguments: its own options, such as --base-directory."""

    def __init__(self, comfyui: Path, arguments: list[str]):
        self.comfyui, self.arguments = comfyui, arguments
        self.process: subprocess.Popen | None = None
        self.url = ""
        self.key = {"x-api-key": secrets.token_hex(16)}  # the process's own: the deployment has asked for the client's

    async def start(self) -> None:
        """Returns when it answers; RuntimeError if it ends or takes too long."""
        port = free_port()
        command = [sys.executable, "-m", "serve.leash", sys.executable, str(self.comfyui / "main.py")]
        command += [
            *self.arguments,
            "--listen",
            "127.0.0.1",
            "--port",
            str(port),
            "--disable-auto-launch",
        ]  # the last counts
        command += ["--database-url", "sqlite:///:memory:"]  # a file would be locked by whoever shares the base directory
        root = Path(__file__).resolve().parents[1]
        # Neither the clients' keys nor Ray's token: ComfyUI and its packs are no part of Ray.
        hidden = ("VEGA_API_KEYS", "RAY_")
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(hidden)}
        environment["VEGA_API_KEYS"] = self.key["x-api-key"]
        path = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**environment, "PYTHONPATH": path})
        self.url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(round(START / LOOKS)):
                if not self.is_alive():
                    raise RuntimeError(f"ComfyUI ended with {self.process.returncode} while it started; its log says why.")
                try:
                    (await http.get(f"{self.url}/v1/openapi.json", headers=self.key)).raise_for_status()
                    return
                except httpx.HTTPError:
                    await asyncio.sleep(LOOKS)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer within {START:.0f} s.")

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    async def gone(self, seconds: float) -> None:
        """Returns when it has ended, or after so many seconds."""
        for _ in range(round(seconds / LOOKS)):
            if not self.is_alive():
                return
            await asyncio.sleep(LOOKS)

    def stop(self) -> None:
        """The leash ends it when its standard input closes."""
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
