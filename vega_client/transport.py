"""HTTP requests to one server, tried again while they may be answered later."""

import uuid
from collections.abc import Awaitable, Callable

import httpx

from .errors import ConnectError, GatewayError, RequestError
from .retry import PERMANENT_ERRORS, RetryPolicy, is_tls_error, is_transient

API_PREFIX, REQUEST_ID_HEADER = "/v1/", "X-Request-Id"
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
CANCEL_SECONDS = 5.0  # for each request that takes a prompt off the server


class Transport:
    """url is without a slash at its end; trust_env as httpx has it."""

    def __init__(self, url: str, policy: RetryPolicy, trust_env: bool):
        self.url, self.policy = url, policy
        self.http = httpx.AsyncClient(timeout=timeout(READ_SECONDS), trust_env=trust_env)

    async def get_json(self, path: str) -> dict:
        response = await self.request("GET", path)
        try:
            return response.json()
        except ValueError:
            raise RequestError(f"{response.url} is not what a ComfyUI answers.", response.status_code) from None

    async def request(
        self, method: str, path: str, is_done: Callable[[], Awaitable[bool]] | None = None, **options
    ) -> httpx.Response | None:
        """The response, asked for again under one id while it may come later; None where is_done finds that it has come.

        RequestError for what the server refuses, ConnectError where nothing answers, ValueError for what can't be sent.
        """
        headers = {REQUEST_ID_HEADER: uuid.uuid4().hex, **options.pop("headers", {})}
        try:
            async for attempt in self.policy.attempts(is_transient):
                with attempt:
                    if attempt.retry_state.attempt_number > 1 and is_done and await is_done():
                        return None
                    response = await self.http.request(method, self.url + path, headers=headers, **options)
                    if response.status_code != 200 or (path.startswith(API_PREFIX) and "X-Seed" not in response.headers):
                        error = response_error(response, path)
                        self.policy.has_answered |= not isinstance(error, GatewayError)
                        raise error
                    self.policy.has_answered = True
        except PERMANENT_ERRORS as error:
            raise ValueError(f"This can't be sent to {self.url}: {error}.") from None
        except httpx.RequestError as error:
            reason = f"TLS with {self.url} fails" if is_tls_error(error) else f"Nothing answers at {self.url}"
            raise ConnectError(f"{reason}: {error or type(error).__name__}") from None
        return response

    async def post_once(self, path: str, json: dict | None = None) -> httpx.Response:
        """The response, without a second attempt; httpx.HTTPError where there is none within CANCEL_SECONDS."""
        return await self.http.post(self.url + path, json=json, timeout=CANCEL_SECONDS)

    async def close(self) -> None:
        await self.http.aclose()


def timeout(read_seconds: float | None) -> httpx.Timeout:
    return httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, read=read_seconds, pool=None)


def response_error(response: httpx.Response, path: str) -> RequestError:
    """With the server's own words, from /v1 or from ComfyUI, or those of who answers in its place."""
    try:
        body = response.json()
    except ValueError:
        body = None
    header = response.headers.get("Retry-After", "")
    retry_after = float(header) if header.isdecimal() else None
    if not isinstance(body, dict) or "error" not in body:
        kind = GatewayError if is_from_gateway(response, path) else RequestError
        return kind(describe_response(response), response.status_code, retry_after=retry_after)
    message, id = body["error"], body.get("id") or response.headers.get(REQUEST_ID_HEADER)
    if isinstance(message, dict):  # ComfyUI's
        nodes = body.get("node_errors", {}).items()
        reasons = [f"node {node_id}: {e['message']} ({e['details']})" for node_id, node in nodes for e in node["errors"]]
        message = "; ".join(reasons) or message.get("message", message)
    if response.status_code >= 500 and id and id not in str(message):  # the server's log explains it
        message = f"{message} (id {id})"
    return RequestError(str(message), response.status_code, body.get("field"), retry_after, id)


def describe_response(response: httpx.Response) -> str:
    """What a response says that is not JSON with an error; a page is for eyes."""
    if response.has_redirect_location:
        return f"{response.url} leads to {response.headers['Location']}: give the address of that server."
    if "html" in response.headers.get("Content-Type", ""):
        status = f"{response.status_code} {response.reason_phrase}"
        return f"{response.url} answers {status} with a page: there is no ComfyUI with this pack, or not yet."
    return response.text[:500] or response.reason_phrase


def is_from_gateway(response: httpx.Response, path: str) -> bool:
    """Of a response that is not the documented JSON. ComfyUI's own errors outside /v1 are not, either."""
    if not path.startswith(API_PREFIX):
        return False
    # Ray's proxy, when it has just been started, knows no route yet.
    return response.status_code >= 500 or response.status_code == 200 or "/-/routes" in response.text
