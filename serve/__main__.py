"""`python -m serve --replicas 2`: the API on one machine, one ComfyUI process for each GPU, or several without any."""

import argparse
import os
import queue
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pydantic

from contract.auth import is_loopback
from contract.settings import Settings

from .options import Options
from .ray_environment import of_own_ray

MOST = 1000  # processes on one machine
LOOKS = 0.1  # seconds between two looks at whether what was started serves
PAUSE = 5.0  # seconds before it is tried again
OBJECTS = 2**29  # bytes of this machine's memory for requests and pictures between the processes
# What Ray reads when it starts: what stands around its proxy, and the seconds between two looks at whether that lives.
RAY = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy_middleware:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_DEDUP_LOGS": "0",  # lines that differ in a request's id alone are not the same
    "RAY_worker_niceness": "0",  # by itself Ray lets everything else go first
}


def whole(least: int, most: int) -> Callable[[str], int]:
    """For argparse: a number between these."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
        return int(text)

    return number


def check_free(host: str, port: int, option: str) -> None:
    """Ray would say so in pages, after half a minute."""
    try:
        socket.getaddrinfo(host, port)  # create_server would hide what kind of error it was
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        why = "this machine has no such address" if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        sys.exit(f"nothing can listen at {host}:{port} ({why}): choose another {option}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of ComfyUI, with this pack in custom_nodes")
    parser.add_argument(
        "--replicas", type=whole(1, MOST), default=1, help="ComfyUI processes, each with its own GPU if there is one"
    )
    parser.add_argument("--most", type=whole(1, MOST), help="up to so many, by the load")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--port", type=whole(1, 65535), default=8000)
    parser.add_argument("--metrics-port", type=whole(1, 65535), default=8080, help="for Prometheus: Ray's and our metrics")
    given, rest = parser.parse_known_args()
    if given.most and given.most < given.replicas:
        parser.error(f"--most {given.most} is fewer than --replicas {given.replicas}")
    try:
        options = Options(comfyui=given.comfyui, arguments=rest, loopback=is_loopback(given.host))
    except pydantic.ValidationError as error:
        sys.exit("; ".join(found["msg"].removeprefix("Value error, ") for found in error.errors()))
    if given.port == given.metrics_port:
        parser.error(f"--port and --metrics-port are both {given.port}: choose two")
    check_free(given.host, given.port, "--host or --port")
    check_free("127.0.0.1", given.metrics_port, "--metrics-port")
    given_environment = dict(os.environ)
    keys = Settings.pop_keys(os.environ)  # every process of Ray's would have them
    try:
        os.environ.update(of_own_ray(os.environ))
    except ValueError as error:
        sys.exit(str(error))
    for name, value in RAY.items():
        os.environ.setdefault(name, value)

    import ray  # now that its variables are set
    from ray import serve

    from .applications import CannotServe, deploy, drain, serves
    from .deployments import Painter, painters_run
    from .ray_watch import RayWatch

    ray.init(
        address="local",  # also where another runs
        _metrics_export_port=given.metrics_port,
        include_dashboard=False,
        object_store_memory=OBJECTS,
    )
    watch = RayWatch(given_environment)
    serve.start(http_options={"host": given.host, "port": given.port})
    there = ray.cluster_resources()
    share = there["CPU"] / (given.most or given.replicas)  # Ray has each compute with so many threads
    share = int(share) if share > 1 else share
    painter = Painter.options(ray_actor_options={"num_cpus": share, "num_gpus": 1 if there.get("GPU") else 0})
    if given.most:
        bounds = {"min_replicas": given.replicas, "max_replicas": given.most, "target_ongoing_requests": 4}
        painter = painter.options(autoscaling_config=bounds)
    else:
        painter = painter.options(num_replicas=given.replicas)

    calls = queue.SimpleQueue()  # the one that a signal's handler may put into
    again = getattr(signal, "SIGHUP", None)  # Windows has none
    for wanted in filter(None, (signal.SIGTERM, signal.SIGINT, again)):
        signal.signal(wanted, lambda number, _: calls.put(number))

    def start(settings: Settings) -> None:
        """Also again: one process after another is replaced by a new one, as models, packs or keys have changed.

        Returns when they serve, or with the next signal; CannotServe if they never will.
        """
        deploy(options, painter, settings)
        while not serves():
            if not calls.empty():
                return
            time.sleep(LOOKS)
        metrics = f"http://127.0.0.1:{given.metrics_port}/metrics"
        watch.anew = True
        print(f"Vega API on http://{given.host}:{given.port}/v1, metrics on {metrics}", flush=True)

    try:
        start(Settings.from_environment(**keys))
    except CannotServe as error:
        watch.stop()
        ray.shutdown()  # it prints its processes' last lines, and this is to be below them
        sys.exit(f"The API can't be served: {error}")
    while calls.get() == again:
        try:
            start(Settings.from_environment(**keys))  # the file of keys may have changed
        except ValueError as error:
            print(f"nothing is replaced: {error}", file=sys.stderr, flush=True)
        except CannotServe as error:
            if painters_run():
                print(f"what served before goes on: {error}", file=sys.stderr, flush=True)
            else:  # of one process Serve ends the old one before it starts the new one
                print(f"nothing serves, and it is tried again until it does: {error}", file=sys.stderr, flush=True)
                time.sleep(PAUSE)
                calls.put(again)  # behind what the signals have put there
    watch.anew = False
    drain()
    serve.shutdown()
    watch.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
