"""Starts the real ComfyUI server with this pack, and talks to it over HTTP and its websocket."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import requests
import torch
import websocket

from . import host

START_SECONDS = 180
STOP_SECONDS = 10
MODEL_FOLDERS = ("checkpoints", "controlnet", "diffusers", "embeddings", "loras", "vae", "vae_approx")


class PromptError(Exception):
    """A prompt that the server refused or that failed; `node_id` says where (None: nowhere in particular)."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class Server:
    """A running server: `url`, `base` (its folder of models, inputs and outputs), `log` (a file), `process`."""

    def __init__(self, port: int, base: Path, log: Path, process: subprocess.Popen):
        self.port, self.base, self.log, self.process = port, base, log, process
        self.url = f"http://127.0.0.1:{port}"
        self.http = requests.Session()
        self.http.trust_env = False  # a proxy for the internet must not be asked for this machine

    def get(self, path: str, **query) -> requests.Response:
        response = self.http.get(self.url + path, params=query, timeout=60)
        response.raise_for_status()
        return response

    def post(self, path: str, body: dict) -> requests.Response:
        return self.http.post(self.url + path, json=body, timeout=60)

    def connect(self) -> "Client":
        return Client(self)

    def free(self) -> None:
        """Models and what nodes have drawn are forgotten when this returns.

        The host only notes POST /free, and a prompt that comes quickly runs before it; what follows a prompt runs after.
        """
        self.post("/free", {"free_memory": True, "unload_models": True}).raise_for_status()
        image = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
        shown = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        with self.connect() as client:
            client.run({"1": image, "2": shown})


class Client:
    """One websocket connection, and the prompts queued under its id."""

    def __init__(self, server: Server):
        self.server = server
        self.id = uuid.uuid4().hex
        address = f"ws://127.0.0.1:{server.port}/ws?clientId={self.id}"
        # Given a socket of its own the library asks no proxy; its option http_no_proxy counts only beside a proxy's name.
        direct = socket.create_connection(("127.0.0.1", server.port), timeout=600)
        self.socket = websocket.create_connection(address, timeout=600, socket=direct)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()

    def queue(self, prompt: dict) -> str:
        """The prompt's id; PromptError with the server's reasons if it, or a branch of it, is not valid."""
        response = self.server.post("/prompt", {"prompt": prompt, "client_id": self.id})
        body = response.json()
        if response.status_code == 200 and not body["node_errors"]:
            return body["prompt_id"]
        for node_id, node in body.get("node_errors", {}).items():
            reasons = "; ".join(f"{e['message']}: {e['details']}" for e in node["errors"])
            raise PromptError(f"{node['class_type']}: {reasons}", node_id)
        raise PromptError(body["error"]["message"])

    def events(self, prompt_id: str):
        """(type, data) of the prompt's websocket messages; binary previews come as ("preview", bytes).

        Ends with `executing` of no node, which the server sends last, after the outputs are in /history (the
        execution_success before it comes too early for that); raises PromptError then if the prompt failed.
        """
        failure = None
        while True:
            message = self.socket.recv()
            if isinstance(message, bytes):
                yield "preview", message
                continue
            event = json.loads(message)
            kind, data = event["type"], event["data"]
            if data.get("prompt_id") != prompt_id:
                continue
            yield kind, data
            if kind == "execution_error":
                failure = PromptError(data["exception_message"].strip(), data["node_id"])
            elif kind == "execution_interrupted":
                failure = PromptError("interrupted", data["node_id"])
            elif kind == "executing" and data["node"] is None:
                if failure:
                    raise failure
                return

    def run(self, prompt: dict) -> dict:
        """Queues the prompt, waits for its end and returns its outputs: node id -> what /history names."""
        prompt_id = self.queue(prompt)
        for _ in self.events(prompt_id):
            pass
        return self.outputs(prompt_id)

    def outputs(self, prompt_id: str) -> dict:
        return self.server.get(f"/history/{prompt_id}").json()[prompt_id]["outputs"]

    def download(self, file: dict) -> bytes:
        """The bytes of a file that an output names."""
        return self.server.get("/view", **{k: file[k] for k in ("filename", "subfolder", "type")}).content


def output_images(outputs: dict) -> list[dict]:
    """The files of every picture among a prompt's outputs."""
    return [image for output in outputs.values() for image in output.get("images", [])]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare_base(base: Path, folder: str = host.ROOT.name) -> list[str]:
    """Makes `base` a base directory with the pack in custom_nodes/`folder`, and gives the host's options for it."""
    for name in MODEL_FOLDERS:
        (base / "models" / name).mkdir(parents=True, exist_ok=True)
    for name in ("custom_nodes", "input", "output", "temp", "user"):
        (base / name).mkdir(exist_ok=True)
    link = base / "custom_nodes" / folder
    if not link.is_symlink():
        link.symlink_to(host.ROOT, target_is_directory=True)
    options = ["--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes"]
    return [*options, *([] if torch.cuda.is_available() else ["--cpu"])]


@contextmanager
def serve(base: Path, *arguments: str, folder: str = host.ROOT.name, **settings: str):
    """A Server with `base` as its base directory and the pack in its custom_nodes/`folder`; stopped on the way out.

    The host's own folders are never written to. Models go into base/models. SIGTERM, too, stops the server first.
    settings are environment variables of the server.
    """
    port = free_port()
    command = [sys.executable, "-u", str(host.path() / "main.py"), *prepare_base(base, folder), "--port", str(port)]
    command += ["--listen", "127.0.0.1", "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}", *arguments]
    log = base / "server.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **settings}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
    server = Server(port, base, log, process)
    try:
        wait_until_up(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        signal.signal(signal.SIGTERM, before)


def wait_until_up(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI stopped while starting; the end of {server.log}:\n{tail_log(server.log)}")
        try:
            server.get("/queue")
            return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} s; the end of {server.log}:\n{tail_log(server.log)}")


def tail_log(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
