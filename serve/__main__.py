"""`python -m serve --replicas 2`: the API on one machine, one ComfyUI process for each GPU, or several without any."""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

import ray
from ray import serve

from api.access import is_loopback

from .deployments import Front, Painter

OBJECTS = 2**29  # bytes of this machine's memory for requests and pictures between the processes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True, help="the folder of ComfyUI, with this pack in custom_nodes")
    parser.add_argument("--replicas", type=int, default=1, help="ComfyUI processes, each with its own GPU if there is one")
    parser.add_argument("--most", type=int, help="up to so many, by the load")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=8080, help="where Prometheus finds Ray's and our metrics")
    options, rest = parser.parse_known_args()
    if not os.environ.get("VEGA_API_KEYS") and not is_loopback(options.host):
        sys.exit(f"Without VEGA_API_KEYS only this machine may be served, not {options.host}: set it, or --host 127.0.0.1.")
    if not (options.comfyui / "main.py").is_file():
        sys.exit(f"There is no ComfyUI in {options.comfyui}: --comfyui is the folder with its main.py.")
    ray.init(_metrics_export_port=options.metrics_port, include_dashboard=False, object_store_memory=OBJECTS)
    serve.start(http_options={"host": options.host, "port": options.port})
    there = ray.cluster_resources()
    share = min(1.0, there["CPU"] / (options.most or options.replicas))
    painter = Painter.options(ray_actor_options={"num_gpus": 1} if there.get("GPU") else {"num_cpus": share})
    if options.most:
        bounds = {"min_replicas": options.replicas, "max_replicas": options.most, "target_ongoing_requests": 4}
        painter = painter.options(autoscaling_config=bounds)
    else:
        painter = painter.options(num_replicas=options.replicas)
    serve.run(Front.bind(painter.bind(str(options.comfyui.resolve()), rest)), name="vega", route_prefix="/")
    print(f"Vega API on http://{options.host}:{options.port}/v1, metrics on port {options.metrics_port}", flush=True)
    stopped = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()  # what is being drawn is drawn to its end
    ray.shutdown()


if __name__ == "__main__":
    main()
