"""What the host's server says in its log of HTTP that it can't read: not the bytes, which may be a prompt's."""

import logging

from aiohttp.http_exceptions import HttpProcessingError


def without_the_request(record: logging.LogRecord) -> bool:
    """A filter of aiohttp's log: a body longer than its Content-Length is read as a request, and quoted in a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = record.exc_text = None
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
    return True


def keep_requests_out() -> None:
    logging.getLogger("aiohttp.server").addFilter(without_the_request)
