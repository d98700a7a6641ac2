"""Sent images stay in memory for a while, to be fetched by the id that /history names."""

import asyncio
import hashlib
import hmac
import secrets

from aiohttp import web

from .encode import EncodedImage

ROUTE = "/vega/sent/"
MAX_IMAGES = 64
MAX_AGE_SECONDS = 600


class ImageStore:
    """The last MAX_IMAGES images of the last MAX_AGE_SECONDS; for use on one event loop, the server's."""

    def __init__(self):
        self.key = secrets.token_bytes(32)
        self.entries: dict[str, tuple[EncodedImage, asyncio.TimerHandle]] = {}  # by id, with what ends it; oldest first

    def put(self, image: EncodedImage) -> dict:
        """The image's entry in /history; its url is relative to the server's address."""
        token = secrets.token_urlsafe(16)
        id = f"{token}.{self.signature(token)}"
        self.entries[id] = (image, asyncio.get_running_loop().call_later(MAX_AGE_SECONDS, self.entries.pop, id))
        if len(self.entries) > MAX_IMAGES:
            _, timer = self.entries.pop(next(iter(self.entries)))
            timer.cancel()
        return {"id": id, "url": ROUTE + id, "format": image.format, "width": image.width, "height": image.height}

    def signature(self, token: str) -> str:
        """What tells an id that was given out, however long ago, from one that never was."""
        return hashlib.blake2b(token.encode(), key=self.key, digest_size=16).hexdigest()

    async def respond(self, request: web.Request) -> web.Response:
        """The image with the id in the path; knowing it is all that is asked. 410 after its time, 404 for any other id."""
        id = request.match_info["id"]
        if id in self.entries:
            image, _ = self.entries[id]
            headers = {"Cache-Control": "private", "X-Content-Type-Options": "nosniff"}
            return web.Response(body=image.data, content_type=f"image/{image.format}", headers=headers)
        token, _, signature = id.partition(".")
        if hmac.compare_digest(signature.encode(), self.signature(token).encode()):
            minutes = MAX_AGE_SECONDS // 60
            raise web.HTTPGone(text=f"This picture is gone: the last {MAX_IMAGES} are kept, for {minutes} minutes.")
        raise web.HTTPNotFound(text="No picture was sent under this id.")


image_store = ImageStore()
