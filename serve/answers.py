"""Answers that are made here and not by ComfyUI: JSON of the documented shape."""

import json

from contract.paths import method_not_allowed_message

RETRY_AFTER = 2  # seconds
READ = ("GET", "HEAD")
NOT_KEPT = {"Cache-Control": "no-store"}  # of what operators ask again and again

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


def said(status: int, content: dict, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode()


def error(status: int, message: str, id: str, **headers: str) -> Answer:
    return said(status, {"error": message, "id": id}, **headers)


def busy(status: int, message: str, id: str) -> Answer:
    """For what another try may change."""
    return error(status, f"{message}; ask again in {RETRY_AFTER} s.", id, **{"Retry-After": str(RETRY_AFTER)})


def wrong_method(method: str, allowed: tuple[str, ...], id: str) -> Answer:
    return error(405, method_not_allowed_message(method, allowed), id, Allow=", ".join(allowed))
