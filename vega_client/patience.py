"""What is tried again, and for how long."""

import logging
import random

import httpx
import tenacity

from .errors import Refused, SomebodyElse

FIRST_ANSWER = 60.0  # seconds for the first answer of a server: Ray Serve's proxy, when killed, is back after 36
RESTART = 300.0  # seconds of waiting between attempts, for the next answer of a server that has answered
LONGEST = 5.0  # seconds between two attempts, where the server doesn't say when
BUSY = (429, 502, 503, 504)
PERMANENT = (httpx.LocalProtocolError, httpx.UnsupportedProtocol)  # it is the request that is wrong


class Patience:
    """With one server. Time in which it works on a request doesn't count."""

    def __init__(self, url: str):
        self.url = url
        self.answered = self.warned = False

    @property
    def seconds(self) -> float:
        return RESTART if self.answered else FIRST_ANSWER

    def attempts(self, is_passing) -> tenacity.AsyncRetrying:
        """To be run through with `async for attempt` and `with attempt`: raises the last error when it ends."""
        again = tenacity.retry_if_exception(is_passing)
        return tenacity.AsyncRetrying(
            retry=again, stop=self.is_over, wait=pause, before_sleep=lambda _: self.warn(), reraise=True
        )

    def is_over(self, state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception()
        if isinstance(error, httpx.ConnectTimeout) and not self.answered:  # which is waiting, too
            return state.seconds_since_start >= FIRST_ANSWER
        return state.idle_for >= (FIRST_ANSWER if is_without_model(error) else self.seconds)

    def warn(self) -> None:
        """A server that restarts looks as a wrong address does: who waits is told at once that it may be one."""
        if not self.answered and not self.warned:
            self.warned = True
            logging.getLogger(__name__).warning("Nothing answers at %s yet; trying for %.0f s.", self.url, FIRST_ANSWER)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may be answered later."""
    if isinstance(error, Refused):
        return isinstance(error, SomebodyElse) or error.status in BUSY
    return isinstance(error, (httpx.TransportError, httpx.DecodingError)) and not isinstance(error, PERMANENT)


def is_without_model(error: BaseException) -> bool:
    """The API says when to ask again where that helps."""
    return isinstance(error, Refused) and not isinstance(error, SomebodyElse) and error.retry_after is None


def pause(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt; all that were sent away together would else be back together."""
    after = getattr(state.outcome.exception(), "retry_after", None)
    if after:
        return min(random.uniform(1, 2) * after, max(RESTART - state.idle_for, LONGEST))
    return random.uniform(0.5, 1) * min(LONGEST, 0.1 * 2 ** min(state.attempt_number, 10))
