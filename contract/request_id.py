"""X-Request-Id: the id of a request in the response's header, in the log, in errors and in the metrics' exemplars."""

import re
import uuid
from collections.abc import Mapping

REQUEST_ID_HEADER = "X-Request-Id"
ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's own, if it is safe in a log; otherwise a new one."""
    given = headers.get(REQUEST_ID_HEADER, "")
    return given if ID_PATTERN.fullmatch(given) else uuid.uuid4().hex
