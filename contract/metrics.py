"""What Prometheus reads at /metrics: requests, seconds, pictures and the queue's depth, by path and code."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from .schema import DOCUMENT, MODELS

BOUNDS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
PATHS = {f"/v1/{DOCUMENT}", *(f"/{version}/{model}" for version in ("v1", "v2") for model in MODELS)}
UNAUTHORIZED = 401


class Metrics:
    """Of one server, or of one proxy of Ray Serve. For use on one event loop."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        buckets = {"buckets": BOUNDS_SECONDS, **own}
        self.requests = Counter("vega_requests", "Requests answered.", ("path", "code"), **own)
        self.seconds = Histogram("vega_latency_seconds", "Seconds until the answer.", ("path",), **buckets)
        self.images = Counter("vega_images", "Pictures answered.", ("path",), **own)
        self.depth = Gauge("vega_queue_depth", "Requests that wait or are drawn.", **own)

    def answered(self, path: str, code: int, seconds: float, images: int, request_id: str) -> None:
        """Counts one request; its id is the exemplar of its latency, which OpenMetrics shows."""
        path = label(path, code)
        self.requests.labels(path, str(code)).inc()
        self.seconds.labels(path).observe(seconds, {"request_id": request_id})
        if images:
            self.drawn(path, images)

    def drawn(self, path: str, images: int) -> None:
        self.images.labels(path).inc(images)

    def text(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its Content-Type: OpenMetrics with exemplars where Accept names it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def label(path: str, code: int) -> str:
    """Labels must stay few, whatever strangers ask for."""
    return path if path in PATHS and code != UNAUTHORIZED else "other"
