"""Keeps requests out of the log of the host's HTTP server: what it can't parse may be a prompt."""

import logging

from aiohttp.http_exceptions import HttpProcessingError


def redact(record: logging.LogRecord) -> bool:
    """A filter: a body longer than its Content-Length is parsed as a request, and quoted in a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = record.exc_text = None
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
    return True


def redact_requests() -> None:
    logging.getLogger("aiohttp.server").addFilter(redact)
