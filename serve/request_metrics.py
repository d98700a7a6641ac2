"""Metrics of the requests at one proxy, for its own /metrics and for Ray's metrics port."""

import time

from ray.util import metrics

from contract.metrics import LATENCY_BUCKETS_SECONDS, Metrics, path_label


class RequestMetrics:
    """The same four metrics under the same names in both places, except that Ray puts ray_ before each."""

    def __init__(self):
        self.own = Metrics()
        self.requests = metrics.Counter("vega_requests", "Requests answered.", ("path", "code"))
        self.seconds = metrics.Histogram(
            "vega_latency_seconds", "Seconds until the answer.", list(LATENCY_BUCKETS_SECONDS), ("path",)
        )
        self.images = metrics.Counter("vega_images", "Pictures answered.", ("path",))
        self.depth = metrics.Gauge("vega_queue_depth", "Requests that wait or are drawn.")
        self.in_flight = 0

    def start(self, path: str, id: str) -> "RequestTimer":
        return RequestTimer(self, path, id)

    def add_in_flight(self, change: int) -> None:
        self.in_flight += change
        self.own.depth.set(self.in_flight)
        self.depth.set(self.in_flight)

    def record(self, path: str, code: int, seconds: float, images: int, request_id: str) -> None:
        self.own.observe_response(path, code, seconds, images, request_id)
        path = path_label(path, code)
        self.requests.inc(1, {"path": path, "code": str(code)})
        self.seconds.observe(seconds, {"path": path})
        if images:
            self.images.inc(images, {"path": path})


class RequestTimer:
    """One request in flight. Only the first call of `stop` counts."""

    def __init__(self, metrics: RequestMetrics, path: str, id: str):
        self.metrics, self.path, self.id = metrics, path, id
        self.start, self.is_stopped = time.perf_counter(), False
        metrics.add_in_flight(1)

    def stop(self, code: int, images: int = 0) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.metrics.add_in_flight(-1)
            self.metrics.record(self.path, code, time.perf_counter() - self.start, images, self.id)
