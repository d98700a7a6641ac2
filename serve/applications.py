"""The two applications of Ray Serve: one of gateways, one of the replicas that they forward to.

Two, so that Ray Serve can stop the gateways, with the requests that they have, before it stops the replicas.
"""

import contextlib
import math
import time

from ray import serve

from contract.settings import Settings

from . import gateway, replica
from .options import Options

FLUSH_DELAY_SECONDS = 1.0  # for the last responses to leave the proxy


class DeployError(Exception):
    """Why nothing new can be deployed; replicas that were running stay."""


def gateway_app(_: Options) -> serve.Application:
    """For Ray Serve's config files: `import_path: serve.applications:gateway_app`, with the args of replica_app."""
    return gateway.build_app(Settings.from_environment())


def replica_app(options: Options) -> serve.Application:
    """For Ray Serve's config files: `import_path: serve.applications:replica_app`."""
    return replica.build_app(options, replica.ComfyReplica, queue_length(Settings.from_environment()))


def queue_length(settings: Settings) -> int:
    """Each gateway has its own queue, and VEGA_API_WAITING counts the requests in all of them."""
    return math.ceil(settings.max_queued_requests / gateway.GATEWAY_REPLICAS)


def deploy(options: Options, deployment: serve.Deployment, settings: Settings) -> None:
    """Starts both, or a rolling update of both; returns at once. deployment: ComfyReplica with its options."""
    replicas = replica.build_app(options, deployment, queue_length(settings))
    targets = [
        serve.RunTarget(replicas, replica.APPLICATION, route_prefix=None),
        serve.RunTarget(gateway.build_app(settings), gateway.APPLICATION),
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def are_running() -> bool:
    """Whether everything that was deployed runs. DeployError if it never will."""
    statuses = [serve.status().applications.get(name) for name in (replica.APPLICATION, gateway.APPLICATION)]
    for application in filter(None, statuses):
        if application.status == "DEPLOY_FAILED":
            messages = [deployment.message for deployment in application.deployments.values()]
            raise DeployError(last_line([*messages, application.message]))
    return all(application and application.status == "RUNNING" for application in statuses)


def last_line(messages: list[str]) -> str:
    """The last line of the first message that isn't empty: the exception's, below Ray's traceback."""
    lines = [line for line in next(filter(None, messages), "").splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else "its log says why"


def drain() -> None:
    """Takes no more requests and returns when the ongoing ones are answered, for which serve.shutdown doesn't wait."""
    end = time.monotonic() + replica.DRAIN_TIMEOUT_SECONDS
    while gateway.APPLICATION in serve.status().applications and time.monotonic() < end:
        with contextlib.suppress(TimeoutError):  # serve.delete waits for a minute
            serve.delete(gateway.APPLICATION)
    time.sleep(FLUSH_DELAY_SECONDS)
