"""What is tried again, and for how long."""

import logging
import random
import ssl
from collections.abc import Callable

import httpx
import tenacity

from .errors import GatewayError, RequestError

FIRST_RESPONSE_SECONDS = 60.0  # for the first answer of a server: Ray Serve's proxy, when killed, is back after 36
RETRY_SECONDS = 300.0  # waited between attempts, for the next answer of a server that has answered
MAX_WAIT_SECONDS = 5.0  # between two attempts, where the server doesn't say when
RETRY_STATUSES = (429, 502, 503, 504)
PERMANENT_ERRORS = (httpx.LocalProtocolError, httpx.UnsupportedProtocol)  # it is the request that is wrong


class RetryPolicy:
    """How long one server is waited for. The time in which it works on a request doesn't count.

    has_answered: whether it has ever answered. has_warned: whether the log has been told that it doesn't.
    """

    def __init__(self, url: str):
        self.url = url
        self.has_answered = self.has_warned = False

    @property
    def seconds(self) -> float:
        return RETRY_SECONDS if self.has_answered else FIRST_RESPONSE_SECONDS

    def attempts(self, is_transient: Callable[[BaseException], bool]) -> tenacity.AsyncRetrying:
        """To be run through with `async for attempt` and `with attempt`: raises the last error when it ends."""
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_transient),
            stop=self.should_stop,
            wait=wait_seconds,
            before_sleep=lambda _: self.warn(),
            reraise=True,
        )

    def should_stop(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception()
        if isinstance(error, httpx.ConnectTimeout) and not self.has_answered:  # which is waiting, too
            return state.seconds_since_start >= FIRST_RESPONSE_SECONDS
        return state.idle_for >= (FIRST_RESPONSE_SECONDS if lacks_retry_after(error) else self.seconds)

    def warn(self) -> None:
        """A server that restarts looks as a wrong address does: who waits is told at once that it may be one."""
        if not self.has_answered and not self.has_warned:
            self.has_warned = True
            message = "No ComfyUI answers at %s yet; trying for %.0f s."
            logging.getLogger(__name__).warning(message, self.url, FIRST_RESPONSE_SECONDS)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may be answered later."""
    if isinstance(error, RequestError):
        return isinstance(error, GatewayError) or error.status in RETRY_STATUSES
    is_broken = isinstance(error, (httpx.TransportError, httpx.DecodingError)) and not isinstance(error, PERMANENT_ERRORS)
    return is_broken and not is_tls_error(error)


def is_tls_error(error: BaseException | None) -> bool:
    """Whether the other side has no TLS, or a certificate that isn't trusted; not where the connection breaks meanwhile."""
    kinds = (ssl.SSLError, ssl.SSLCertVerificationError)  # of the others each is a break, or passes
    return error is not None and (type(error) in kinds or is_tls_error(error.__cause__ or error.__context__))


def lacks_retry_after(error: BaseException | None) -> bool:
    """A refusal without a Retry-After: the API sends one where asking again helps soon."""
    return isinstance(error, RequestError) and not isinstance(error, GatewayError) and error.retry_after is None


def wait_seconds(state: tenacity.RetryCallState) -> float:
    """Until the next attempt; at random, as all that were sent away together would else be back together."""
    retry_after = getattr(state.outcome.exception(), "retry_after", None)
    if retry_after:
        return min(random.uniform(1, 2) * retry_after, max(RETRY_SECONDS - state.idle_for, MAX_WAIT_SECONDS))
    return random.uniform(0.5, 1) * min(MAX_WAIT_SECONDS, 0.1 * 2 ** min(state.attempt_number, 10))
