"""The name of a request in the answer's header, in the log, in errors and beside its measurement: X-Request-Id."""

import re
import uuid
from collections.abc import Mapping

HEADER = "X-Request-Id"
ALLOWED = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's own, if it can stand in a log as it is; otherwise a new one."""
    given = headers.get(HEADER, "")
    return given if ALLOWED.fullmatch(given) else uuid.uuid4().hex
