"""What can go wrong, each with a sentence that says what to do."""


class Refused(Exception):
    """The server doesn't take the request as it is; `status` is HTTP's, `field` the wrong one where there is one."""

    def __init__(self, message: str, status: int, field: str | None = None, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.field, self.retry_after = status, field, retry_after


class Failed(Exception):
    """A workflow stopped; `node_id` says at which node, if at one."""

    def __init__(self, message: str, node_id: str | None = None):
        super().__init__(message)
        self.node_id = node_id


class Lost(Exception):
    """The server forgot a workflow again and again: it restarts, or somebody clears its queue."""
