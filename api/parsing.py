"""A request's body as the schema's model, or a 400 that says what is wrong with it."""

import json
from collections.abc import Collection

import pydantic

from ..contract import openapi
from ..contract.errors import ApiError
from ..contract.schema import Request
from . import emphasis

EXAMPLE_BODY = '{"prompt": "a pink dawn over pine trees"}'
PROMPT_FIELDS = ("prompt", "negative_prompt")


def parse_request(model: type[Request], body: bytes, embeddings: Collection[str]) -> Request:
    """JSON in UTF-8, as the standard has it, or in UTF-16 or UTF-32, as Windows may write it; with or without a BOM."""
    if not body:
        raise ApiError(400, f"The body is empty: send an object, such as {EXAMPLE_BODY}.")
    try:
        encoding = json.detect_encoding(body)
        request = model.model_validate_json(body if encoding == "utf-8" else body.decode(encoding))
    except UnicodeDecodeError:
        raise ApiError(400, "The body is not text: send JSON in UTF-8.") from None
    except pydantic.ValidationError as error:
        raise validation_error(model, error) from None
    for field in PROMPT_FIELDS:
        if error := emphasis.prompt_error(getattr(request, field, ""), embeddings):
            raise ApiError(400, f"{field}: {error}.", field=field)
    return request


def validation_error(model: type[Request], error: pydantic.ValidationError) -> ApiError:
    """Names the first invalid field and what it may be."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    location = [str(part) for part in first["loc"][:1]]
    if not location:
        return ApiError(400, body_error_message(first["type"], first["msg"]))
    field = location[0]
    if field not in model.model_fields:
        message = f"There is no field {field[:80]!r}; there are {', '.join(model.model_fields)}."
        return ApiError(400, message, field=field[:80])
    allowed = openapi.model_properties(model)[field]
    message = f"{field}: {first['msg']}; allowed: {openapi.describe_schema(allowed)}."
    return ApiError(400, message, field=field, allowed=allowed)


def body_error_message(error_type: str, message: str) -> str:
    """For a body that has no fields, or whose fields are not valid together."""
    if error_type == "json_invalid":
        reason = message.removeprefix("Invalid JSON: ")
        return f"The body is not JSON ({reason}): send an object in UTF-8, such as {EXAMPLE_BODY}."
    if error_type == "model_type":
        return f"The body is JSON, but not an object: send one, such as {EXAMPLE_BODY}."
    return f"The body: {message}."
