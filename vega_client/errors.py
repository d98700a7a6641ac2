"""What the server, or the way to it, can fail at; each message is a sentence that says what to do.

VegaError
  + ConnectError       nothing answers, or not with TLS that is trusted; a ConnectionError, too
  + RequestError       the server refuses the request
    + GatewayError     a proxy answers in the server's place
  + WorkflowError      a node of a workflow fails
  + PromptLostError    the server forgets or stops a workflow before its end

What the client itself can't use (an address, a key, an image, a workflow) is ValueError, TypeError or OSError; a client that
is closed, or used in another event loop or process, is RuntimeError.
"""


class VegaError(Exception):
    """The base of all below."""


class ConnectError(VegaError, ConnectionError):
    """Nothing answers at the address in the time that is given to it, or TLS fails there."""


class RequestError(VegaError):
    """The server doesn't take the request as it is.

    status: HTTP's. field: the wrong field of the request, where it is one. retry_after: seconds after which to ask again,
    where the server says so. id: what the server's log calls the request, where it says so.
    """

    def __init__(
        self,
        message: str,
        status: int,
        field: str | None = None,
        retry_after: float | None = None,
        id: str | None = None,
    ):
        super().__init__(message)
        self.status, self.field, self.retry_after, self.id = status, field, retry_after, id


class GatewayError(RequestError):
    """The answer isn't the API's but that of a proxy before it, or of Ray, as they send while it is away."""


class WorkflowError(VegaError):
    """A workflow stopped. node_id: the node that it stopped at, if at one."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class PromptLostError(VegaError):
    """A workflow didn't get to its end: the server restarts, or somebody interrupts it or clears its queue."""


# Their names in version 0.1, which programs may have in `except`.
Refused, Failed, Lost = RequestError, WorkflowError, PromptLostError
