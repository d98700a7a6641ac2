"""What a proxy counts of the requests that come to it: for its own /metrics, and for Ray's metrics port."""

import time

from ray.util import metrics

from contract.metrics import LATENCY_BUCKETS_S, Metrics, path_label


class RequestMetrics:
    """The same four under the same names in both places; Ray puts ray_ before each."""

    def __init__(self):
        self.own = Metrics()
        self.requests = metrics.Counter("vega_requests", "Requests answered.", ("path", "code"))
        self.seconds = metrics.Histogram(
            "vega_latency_seconds", "Seconds until the answer.", list(LATENCY_BUCKETS_S), ("path",)
        )
        self.images = metrics.Counter("vega_images", "Pictures answered.", ("path",))
        self.depth = metrics.Gauge("vega_queue_depth", "Requests that wait or are drawn.")
        self.waiting = 0

    def begun(self, path: str, id: str) -> "OneRequest":
        return OneRequest(self, path, id)

    def wait_now(self, requests: int) -> None:
        self.waiting = requests
        self.own.depth.set(requests)
        self.depth.set(requests)

    def answered(self, path: str, code: int, seconds: float, images: int, request_id: str) -> None:
        self.own.observe_response(path, code, seconds, images, request_id)
        path = path_label(path, code)
        self.requests.inc(1, {"path": path, "code": str(code)})
        self.seconds.observe(seconds, {"path": path})
        if images:
            self.images.inc(images, {"path": path})


class OneRequest:
    """Is counted once, however often it ends."""

    def __init__(self, metrics: RequestMetrics, path: str, id: str):
        self.metrics, self.path, self.id = metrics, path, id
        self.began, self.has_ended = time.perf_counter(), False
        metrics.wait_now(metrics.waiting + 1)

    def end(self, code: int, images: int = 0) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.metrics.wait_now(self.metrics.waiting - 1)
            self.metrics.answered(self.path, code, time.perf_counter() - self.began, images, self.id)
