"""The processes of one API by Ray Serve, and where they listen."""

import contextlib
import ipaddress

import psutil

GATEWAY, REPLICA = "ServeReplica:vega:Gateway", "ServeReplica:comfyui:ComfyReplica"


def hosts(serving) -> list[psutil.Process]:
    """The ComfyUI processes, children of their supervisors."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or ["", ""]
        if command[1:] and command[1].endswith("main.py") and str(serving.log.parent) in command:
            found.append(process)
    return found


def of_ray(serving, name: str) -> list[psutil.Process]:
    """The processes of this Ray, and of no other, that are called so."""
    found = psutil.Process(serving.process.pid).children(recursive=True)
    return [process for process in found if process.is_running() and command(process).startswith(f"ray::{name}")]


def command(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:  # it has just ended
        return ""


def processes(serving) -> list[psutil.Process]:
    """The one that was started, then all that it started: Ray's own, those of Ray Serve, and the ComfyUI processes."""
    started = psutil.Process(serving.process.pid)
    return [started, *started.children(recursive=True)]


def named(serving, name: str) -> psutil.Process:
    (found,) = [process for process in processes(serving) if process.name() == name and process.status() != "zombie"]
    return found


def listening(serving) -> list[tuple[str, str, int]]:
    """The process's name, without what it is just doing, the address and the port of each."""
    found = []
    for process in processes(serving):
        with contextlib.suppress(psutil.NoSuchProcess):
            name, connections = process.name().split(".")[0], process.net_connections("tcp")
            found += [(name, *connection.laddr) for connection in connections if connection.status == psutil.CONN_LISTEN]
    return found


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
