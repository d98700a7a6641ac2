"""The Prometheus metrics at /metrics: requests, latency, images and the depth of the queue, by path and status code."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from .paths import MODELS, OPENAPI_PATH

LATENCY_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
PATHS = {f"/v1/{OPENAPI_PATH}", *(f"/{version}/{model}" for version in ("v1", "v2") for model in MODELS)}
UNAUTHORIZED = 401


class Metrics:
    """Of one server, or of one proxy of Ray Serve. For use on one event loop."""

    def __init__(self):
        self.registry = CollectorRegistry()
        registry = {"registry": self.registry}
        buckets = {"buckets": LATENCY_BUCKETS_SECONDS, **registry}
        self.requests = Counter("vega_requests", "Requests answered.", ("path", "code"), **registry)
        self.seconds = Histogram("vega_latency_seconds", "Seconds until the answer.", ("path",), **buckets)
        self.images = Counter("vega_images", "Pictures answered.", ("path",), **registry)
        self.depth = Gauge("vega_queue_depth", "Requests that wait or are drawn.", **registry)

    def observe_response(self, path: str, code: int, seconds: float, images: int, request_id: str) -> None:
        """Counts one request; its id is the exemplar of its latency, which OpenMetrics shows."""
        path = path_label(path, code)
        self.requests.labels(path, str(code)).inc()
        self.seconds.labels(path).observe(seconds, {"request_id": request_id})
        if images:
            self.count_images(path, images)

    def count_images(self, path: str, images: int) -> None:
        self.images.labels(path).inc(images)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(text, Content-Type): OpenMetrics with exemplars where Accept names it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def path_label(path: str, code: int) -> str:
    """Prometheus keeps a series for each label: there must stay few, whatever is requested."""
    return path if path in PATHS and code != UNAUTHORIZED else "other"
