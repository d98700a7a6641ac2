"""Responses that serve/ makes itself: JSON bodies as docs/api.md documents them."""

import json

from contract.paths import method_not_allowed_message

RETRY_AFTER_SECONDS = 2
READ_METHODS = ("GET", "HEAD")
NO_STORE = {"Cache-Control": "no-store"}  # for routes that operators poll

RawResponse = tuple[int, dict[str, str], bytes]  # status, headers, body


def json_response(status: int, content: dict, **headers: str) -> RawResponse:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode()


def error_response(status: int, message: str, id: str, **headers: str) -> RawResponse:
    """id: the request's."""
    return json_response(status, {"error": message, "id": id}, **headers)


def retry_later(status: int, message: str, id: str) -> RawResponse:
    """An error that a later attempt may not meet, with Retry-After. message: without its full stop."""
    return error_response(
        status, f"{message}; ask again in {RETRY_AFTER_SECONDS} s.", id, **{"Retry-After": str(RETRY_AFTER_SECONDS)}
    )


def method_not_allowed(method: str, id: str) -> RawResponse:
    """Of a path that is only read."""
    return error_response(405, method_not_allowed_message(method, READ_METHODS), id, Allow=", ".join(READ_METHODS))
