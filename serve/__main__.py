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
from .ray_environment import private_variables

MAX_REPLICAS = 1000
TARGET_ONGOING_REQUESTS = 4  # of a replica; with more, autoscaling adds one
POLL_INTERVAL_SECONDS = 0.1  # between two checks of whether everything runs
DEPLOY_RETRY_DELAY_SECONDS = 5.0
OBJECT_STORE_BYTES = 2**29  # shared memory for requests and pictures between Ray's processes
# Ray reads these when it starts: the proxy's middleware, and how soon a dead proxy is replaced. The operator's own win.
RAY_DEFAULTS = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy_middleware:middlewares",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
    "RAY_DEDUP_LOGS": "0",  # Ray would drop lines that differ only in a request's id
    "RAY_worker_niceness": "0",  # Ray's default lets every other process go first
}


def integer_in_range(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: an integer from low to high."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low} to {high}")
        return int(text)

    return parse


def check_port_free(host: str, port: int, option: str) -> None:
    """Exits with a sentence where the address can't be bound. Ray would take half a minute and print a traceback."""
    try:
        socket.getaddrinfo(host, port)  # create_server would hide what kind of error it was
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        why = "this machine has no such address" if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        sys.exit(f"nothing can listen at {host}:{port} ({why}): choose another {option}")


def parse_arguments() -> tuple[argparse.Namespace, Options]:
    """Exits with a sentence for what can't be served. Options that are unknown here are ComfyUI's."""
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of ComfyUI, with this pack in custom_nodes")
    parser.add_argument(
        "--replicas",
        type=integer_in_range(1, MAX_REPLICAS),
        default=1,
        help="ComfyUI processes, each with its own GPU if there is one",
    )
    parser.add_argument("--most", type=integer_in_range(1, MAX_REPLICAS), help="the most processes, added as the load grows")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    port = integer_in_range(1, 65535)
    parser.add_argument("--port", type=port, default=8000)
    parser.add_argument("--metrics-port", type=port, default=8080, help="for Prometheus: Ray's and our metrics")
    args, rest = parser.parse_known_args()
    if args.most and args.most < args.replicas:
        parser.error(f"--most {args.most} is fewer than --replicas {args.replicas}")
    try:
        options = Options(comfyui=args.comfyui, arguments=rest, loopback=is_loopback(args.host))
    except pydantic.ValidationError as failure:
        sys.exit("; ".join(error["msg"].removeprefix("Value error, ") for error in failure.errors()))
    if args.port == args.metrics_port:
        parser.error(f"--port and --metrics-port are both {args.port}: choose two")
    check_port_free(args.host, args.port, "--host or --port")
    check_port_free("127.0.0.1", args.metrics_port, "--metrics-port")
    return args, options


def main() -> None:
    args, options = parse_arguments()
    environment = dict(os.environ)
    keys = Settings.pop_keys(os.environ)  # every process of Ray's would inherit them
    try:
        os.environ.update(private_variables(os.environ))
    except ValueError as error:
        sys.exit(str(error))
    for name, value in RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)

    import ray  # reads the variables set above
    from ray import serve

    from . import replica
    from .applications import DeployError, are_running, deploy, drain
    from .ray_watchdog import RayWatchdog

    ray.init(
        address="local",  # a Ray of its own, even where another one runs
        _metrics_export_port=args.metrics_port,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    watchdog = RayWatchdog(environment)
    serve.start(http_options={"host": args.host, "port": args.port})
    resources = ray.cluster_resources()
    cpus = resources["CPU"] / (args.most or args.replicas)  # Ray sets OMP_NUM_THREADS to it
    cpus = int(cpus) if cpus > 1 else cpus  # Ray takes fractions below 1 only
    gpus = 1 if resources.get("GPU") else 0
    deployment = replica.ComfyReplica.options(ray_actor_options={"num_cpus": cpus, "num_gpus": gpus})
    if args.most:
        autoscaling = {"min_replicas": args.replicas, "max_replicas": args.most}
        autoscaling["target_ongoing_requests"] = TARGET_ONGOING_REQUESTS
        deployment = deployment.options(autoscaling_config=autoscaling)
    else:
        deployment = deployment.options(num_replicas=args.replicas)

    signals = queue.SimpleQueue()  # put() is reentrant, as a signal handler needs it
    sighup = getattr(signal, "SIGHUP", None)  # Windows has none
    for number in filter(None, (signal.SIGTERM, signal.SIGINT, sighup)):
        signal.signal(number, lambda number, _: signals.put(number))

    def start(settings: Settings) -> None:
        """A first start, or a rolling restart for new models, packs or keys.

        Returns when everything runs, or when the next signal has come. DeployError if it never will run.
        """
        deploy(options, deployment, settings)
        while not are_running():
            if not signals.empty():
                return
            time.sleep(POLL_INTERVAL_SECONDS)
        metrics = f"http://127.0.0.1:{args.metrics_port}/metrics"
        watchdog.restarts = True
        print(f"Vega API on http://{args.host}:{args.port}/v1, metrics on {metrics}", flush=True)

    try:
        start(Settings.from_environment(**keys))
    except DeployError as error:
        watchdog.stop()
        ray.shutdown()  # before the message: it prints the last lines of Ray's processes
        sys.exit(f"The API can't be served: {error}")
    while signals.get() == sighup:
        try:
            start(Settings.from_environment(**keys))  # reads the file of keys again
        except ValueError as error:
            print(f"nothing is replaced: {error}", file=sys.stderr, flush=True)
        except DeployError as error:
            if replica.any_running():
                print(f"what served before goes on: {error}", file=sys.stderr, flush=True)
            else:  # Ray Serve stops a single replica before it starts the new one
                print(f"nothing serves, and it is tried again until it does: {error}", file=sys.stderr, flush=True)
                time.sleep(DEPLOY_RETRY_DELAY_SECONDS)
                signals.put(sighup)  # behind the signals that have come meanwhile
    watchdog.restarts = False
    drain()
    serve.shutdown()
    watchdog.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
