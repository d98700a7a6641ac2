"""What can go wrong, each with a sentence that says what to do."""


class Refused(Exception):
    """The server doesn't take the request as it is; `status` is HTTP's, `field` the wrong one where there is one.

    `id` is what the server calls the request in its log, where it says so; `retry_after` are seconds.
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


class SomebodyElse(Refused):
    """Not the API has answered but a proxy before it, or Ray, as they do while it is away."""


class Failed(Exception):
    """A workflow stopped; `node_id` says at which node, if at one."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class Lost(Exception):
    """A workflow never got to its end: the server restarts, or somebody interrupts it or clears its queue."""
