"""Starts and ends Serve's two applications on one machine: the Fronts, and the Painters that they ask."""

import contextlib
import time

from ray import serve

from api.settings import Settings

from .deployments import APPLICATION, DRAIN, PAINTERS, front_of, painters_of
from .options import Options

FLUSH = 1.0  # seconds for the last answers to leave the proxy


def deploy(options: Options, painter: serve.Deployment, settings: Settings) -> None:
    """Returns when they serve; also again: one process after another is replaced by a new one."""
    behind = serve.RunTarget(painters_of(options, painter, settings), PAINTERS, route_prefix=None)
    serve.run_many([behind, serve.RunTarget(front_of(settings), APPLICATION)])


def drain() -> None:
    """Takes no more requests and returns when what is begun is answered; serve.shutdown waits for nothing."""
    end = time.monotonic() + DRAIN
    while APPLICATION in serve.status().applications and time.monotonic() < end:
        with contextlib.suppress(TimeoutError):  # it waits for a minute
            serve.delete(APPLICATION)
    time.sleep(FLUSH)
