"""Who is told of a request's steps: the websocket that asked with the same secret."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from aiohttp import web

LEAST = 32  # characters of what nobody may guess: a random UUID's hexadecimal digits
TOO_SHORT = (
    f"X-Client-Secret, or without one X-Client-Id, must have at least {LEAST} characters that nobody can guess, such as a "
    "random UUID's: give the websocket the same, as /ws?clientId=ID&secret=SECRET."
)
asked_with = WeakKeyDictionary()  # each websocket's secret, "" where it gave none


async def remember_secret(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler (on_response_prepare) of the host's application."""
    if isinstance(response, web.WebSocketResponse):
        asked_with[response] = request.query.get("secret", "")


@dataclass(frozen=True)
class Follower:
    """A websocket's client that is told of a request's steps, and is shown what they have drawn so far if it asks."""

    client_id: str
    secret: str  # "" for a client whose id is one itself
    request_id: str
    previews: bool

    def owns(self, socket: web.WebSocketResponse | None) -> bool:
        """Whether it is the follower's own: another's may have its id, which ComfyUI's /queue and /history can tell."""
        secret = asked_with.get(socket) if socket is not None else None
        if secret is None:
            return False
        one, other = (text.encode("utf-8", "surrogateescape") for text in (secret, self.secret))
        return hmac.compare_digest(one, other)


def follower(headers: Mapping[str, str], request_id: str) -> Follower | None:
    """The one that X-Client-Id names; its events call the request by its id. ValueError for a guess."""
    client_id, secret = (headers.get(name, "") for name in ("X-Client-Id", "X-Client-Secret"))
    if not client_id:
        return None
    if len(secret or client_id) < LEAST:
        raise ValueError(TOO_SHORT)
    return Follower(client_id, secret, request_id, headers.get("X-Previews", "").lower() == "true")
