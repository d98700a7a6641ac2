"""The document at /v1/openapi.json, made of the requests' schemas."""

from functools import cache

from pydantic import BaseModel

from .paths import MODELS
from .request_id import REQUEST_ID_HEADER

SCHEMA_REF = "#/components/schemas/{model}"
ERROR_DESCRIPTIONS = {
    400: "A field is missing, unknown or not what it may be; field and allowed say so.",
    401: "The header x-api-key holds no valid key, or no keys are configured and the request is not from this machine.",
    408: "The body stands still before it is complete.",
    413: "The body is too large.",
    415: "The body's Content-Encoding is not understood; Accept-Encoding says which are.",
    429: "Too many requests are waiting; Retry-After says in how many seconds to ask again.",
    500: "The picture could not be drawn; the server's log says why under the id.",
    503: "No model is available, or others keep interrupting the server; Retry-After says in how many seconds to ask again.",
}


@cache
def model_properties(model: type[BaseModel]) -> dict[str, dict]:
    """Each field's JSON Schema, without title, default and description."""
    schemas = model.model_json_schema(ref_template=SCHEMA_REF)["properties"]
    omitted = ("title", "default", "description")
    return {name: {key: value for key, value in schema.items() if key not in omitted} for name, schema in schemas.items()}


def describe_schema(schema: dict) -> str:
    """A field's type and bounds, short enough for one line of an error."""
    schema = schema.get("anyOf", [schema])[0]
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    words = [schema["type"]]
    if "multipleOf" in schema:
        words.append(f"a multiple of {schema['multipleOf']}")
    if "minimum" in schema:
        words.append(f"from {schema['minimum']} to {schema['maximum']}")
    if "minLength" in schema or "maxLength" in schema:
        words.append(f"{schema.get('minLength', 0)} to {schema['maxLength']} characters")
    return " ".join(words)


def models_response() -> dict:
    """The response of /v1/models."""
    properties = {name: {"type": "string"} for name in ("id", "object", "owned_by", "root")}
    model = {"type": "object", "required": list(properties), "properties": properties}
    fields = {"object": {"type": "string"}, "data": {"type": "array", "items": model}}
    schema = {"type": "object", "required": list(fields), "properties": fields}
    return {"description": "The models; root is what draws them.", "content": {"application/json": {"schema": schema}}}


@cache
def build_document() -> dict:
    error = {
        "type": "object",
        "required": ["error", "id"],
        "properties": {
            "error": {"type": "string"},
            "field": {"type": "string"},
            "allowed": {"type": "object"},
            "id": {"type": "string", "description": "That of X-Request-Id."},
        },
    }
    id = {"schema": {"type": "string"}, "description": "The request's own, where it has one of at most 64 characters."}
    headers = {
        REQUEST_ID_HEADER: id,
        "X-Seed": {"schema": {"type": "string"}, "description": "The seed of the first picture."},
        "X-Queue-Time": {"schema": {"type": "number"}, "description": "Seconds before the first step of the work."},
        "X-Model-Time": {"schema": {"type": "number"}, "description": "Seconds of the host's work on the pictures."},
    }
    picture = {"schema": {"type": "string", "format": "binary"}}
    encoded = {"type": "string", "contentEncoding": "base64"}
    fields = {"image": {"anyOf": [encoded, {"type": "array", "items": encoded}]}}
    content = {f"image/{format}": picture for format in ("jpeg", "png", "webp")}
    content["application/json"] = {"schema": {"type": "object", "required": ["image"], "properties": fields}}
    error_content = {"application/json": {"schema": {"$ref": SCHEMA_REF.format(model="Error")}}}
    responses = {"200": {"description": "The picture.", "headers": headers, "content": content}}
    error_response = {"headers": {REQUEST_ID_HEADER: id}, "content": error_content}
    responses |= {str(status): {"description": text, **error_response} for status, text in ERROR_DESCRIPTIONS.items()}
    schemas, paths = {"Error": error}, {}
    for path, model in MODELS.items():
        schemas[model.__name__] = model.model_json_schema(ref_template=SCHEMA_REF)
        request_content = {"application/json": {"schema": {"$ref": SCHEMA_REF.format(model=model.__name__)}}}
        body = {"required": True, "content": request_content}
        paths[f"/v1/{path}"] = {"post": {"operationId": path, "requestBody": body, "responses": responses}}
    list_responses = {"200": models_response(), "401": responses["401"], "503": responses["503"]}
    no_key = [{}]
    paths["/v1/models"] = {"get": {"operationId": "models", "security": no_key, "responses": list_responses}}
    key = {"type": "apiKey", "in": "header", "name": "x-api-key"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Vega for ComfyUI", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": key}},
        "security": [{"key": []}, {}],
    }
