"""The paths under /v1 and /v2, and what is said of others."""

from .schema import BaseRequest, RealTimeRequest

REAL_TIME_MODEL = "segmind-vega-rt-v1"
MODELS = {REAL_TIME_MODEL: RealTimeRequest, "segmind-vega": BaseRequest}
OPENAPI_PATH = "openapi.json"
NO_ASYNC_MESSAGE = (
    "Ray Serve has no /v2, whose results would be in one of its processes alone: "
    "POST to /v1, as run_sync of Segmind's SDK does."
)


def not_found_message(path: str) -> str:
    return f"There is no /v1/{printable(path)}; there are {' and '.join(f'/v1/{model}' for model in MODELS)}."


def async_not_found_message(path: str) -> str:
    submit = ", ".join(f"POST /v2/{model}" for model in MODELS)
    return (
        f"There is no /v2/{printable(path)}; there are {submit}, GET /v2/requests/ID/status, GET /v2/requests/ID and "
        "POST /v2/requests/ID/cancel."
    )


def method_not_allowed_message(method: str, allowed: tuple[str, ...]) -> str:
    return f"{method} is not for this path; {' and '.join(allowed)} {'are' if len(allowed) > 1 else 'is'}."


def printable(path: str) -> str:
    """Its first 80 characters, fit for one line of text."""
    return "".join(letter if letter.isprintable() else "?" for letter in path[:80])
