"""What Ray gives at its own ports, with its token and without."""

import os
import subprocess
import sys

import grpc
from serve_processes import listening, processes


def ray_token(serving) -> str:
    (raylet,) = [process for process in processes(serving) if process.name() == "raylet"]
    return raylet.environ()["RAY_AUTH_TOKEN"]


def called(port: int, method: str, *token: tuple[str, str]) -> str:
    """The status of an empty gRPC request."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", metadata=token, timeout=60)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


KEYS_IN_TABLES = """
import sys
from ray._raylet import GcsClient

gcs = GcsClient(address=sys.argv[1])
for namespace in (None, b"serve", b"fun", b"session", b"cluster", b"dashboard", b"job"):
    for key in gcs.internal_kv_keys(b"", namespace):
        sys.stdout.buffer.write(key + b" " + (gcs.internal_kv_get(key, namespace) or b"") + b" ")
"""


def tables(serving) -> bytes:
    """Every key and value in the tables of this Ray, which its token opens."""
    (gcs,) = [port for name, _, port in listening(serving) if name == "gcs_server"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray_token(serving)}
    command = [sys.executable, "-c", KEYS_IN_TABLES, f"127.0.0.1:{gcs}"]
    return subprocess.run(command, capture_output=True, check=True, env=environment).stdout
