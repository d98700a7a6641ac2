"""Starts and ends Serve's two applications on one machine: the Fronts, and the Painters that they ask."""

import contextlib
import time

from ray import serve

from contract.settings import Settings

from .deployments import APPLICATION, DRAIN, PAINTERS, front_of, painters_of
from .options import Options

FLUSH = 1.0  # seconds for the last answers to leave the proxy


class CannotServe(Exception):
    """Why not; what served before goes on."""


def deploy(options: Options, painter: serve.Deployment, settings: Settings) -> None:
    """Begins it; also again: one process after another is replaced by a new one."""
    behind = serve.RunTarget(painters_of(options, painter, settings), PAINTERS, route_prefix=None)
    front = serve.RunTarget(front_of(settings), APPLICATION)
    serve.run_many([behind, front], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def serves() -> bool:
    """Whether all that was deployed does; CannotServe if it never will."""
    found = [serve.status().applications.get(name) for name in (PAINTERS, APPLICATION)]
    for application in filter(None, found):
        if application.status == "DEPLOY_FAILED":
            said = [deployment.message for deployment in application.deployments.values()]
            raise CannotServe(last_line([*said, application.message]))
    return all(application and application.status == "RUNNING" for application in found)


def last_line(messages: list[str]) -> str:
    """Of the first of Ray's messages that says anything: what was raised, below its traceback."""
    lines = [line for line in next(filter(None, messages), "").splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else "its log says why"


def drain() -> None:
    """Takes no more requests and returns when what is begun is answered; serve.shutdown waits for nothing."""
    end = time.monotonic() + DRAIN
    while APPLICATION in serve.status().applications and time.monotonic() < end:
        with contextlib.suppress(TimeoutError):  # it waits for a minute
            serve.delete(APPLICATION)
    time.sleep(FLUSH)
