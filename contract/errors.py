"""The API's error, whichever server answers it."""


class ApiError(Exception):
    """An HTTP error: `close` ends the connection, `details` are further fields of its JSON."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, close: bool = False, **details):
        super().__init__(message)
        self.status, self.headers, self.close, self.details = status, headers, close, details
