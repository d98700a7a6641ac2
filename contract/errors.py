"""The API's error, whichever server answers it."""


class ApiError(Exception):
    """An HTTP error: `close` ends the connection, `details` are further fields of its JSON."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, close: bool = False, **details):
        super().__init__(message)
        self.status, self.headers, self.close, self.details = status, headers, close, details


class RetryLater(ApiError):
    """An error that the same request may not meet after retry_after_s seconds. reason: without its full stop."""

    def __init__(self, status: int, reason: str, retry_after_s: int, close: bool = False):
        super().__init__(status, f"{reason}; ask again in {retry_after_s} s.", {"Retry-After": str(retry_after_s)}, close)
