"""Progress and previews of a /v1 request, for the websocket that was opened with the same secret."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aiohttp import web

MIN_SECRET_LENGTH = 32  # a random UUID's hexadecimal digits
SECRET_TOO_SHORT_MESSAGE = (
    f"X-Client-Secret, or without one X-Client-Id, must have at least {MIN_SECRET_LENGTH} characters that nobody can guess, "
    "such as a random UUID's: give the websocket the same, as /ws?clientId=ID&secret=SECRET."
)
socket_secrets = WeakKeyDictionary()  # web.WebSocketResponse -> its secret, "" where it gave none


async def remember_secret(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler (on_response_prepare) of the host's application."""
    if isinstance(response, web.WebSocketResponse):
        socket_secrets[response] = request.query.get("secret", "")


@dataclass(frozen=True)
class Subscriber:
    """A websocket client that is sent a request's progress, and its previews if it asks for them."""

    client_id: str
    secret: str  # "" for a client whose id is its secret
    request_id: str
    previews: bool

    @classmethod
    def from_headers(cls, headers: Mapping[str, str], request_id: str) -> "Subscriber | None":
        """The one that X-Client-Id names; its events carry request_id. ValueError where its secret can be guessed."""
        client_id, secret = (headers.get(name, "") for name in ("X-Client-Id", "X-Client-Secret"))
        if not client_id:
            return None
        if len(secret or client_id) < MIN_SECRET_LENGTH:
            raise ValueError(SECRET_TOO_SHORT_MESSAGE)
        return cls(client_id, secret, request_id, headers.get("X-Previews", "").lower() == "true")

    def owns(self, socket: web.WebSocketResponse | None) -> bool:
        """Whether the socket gave this secret: another client may use the id, which ComfyUI's /queue and /history reveal."""
        secret = socket_secrets.get(socket) if socket is not None else None
        if secret is None:
            return False
        given, expected = (text.encode("utf-8", "surrogateescape") for text in (secret, self.secret))
        return hmac.compare_digest(given, expected)
