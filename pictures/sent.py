"""Sent pictures stay in memory for a while, to be fetched by the id that /history names."""

import asyncio
import hashlib
import hmac
import secrets

from aiohttp import web

from .picture_file import PictureFile

ROUTE = "/vega/sent/"
PICTURES = 64
SECONDS = 600


class Sent:
    """The last 64 pictures of the last ten minutes; for use on one event loop, the server's."""

    def __init__(self):
        self.key = secrets.token_bytes(32)
        self.kept = {}  # id -> (file, the timer that ends it), oldest first

    def keep(self, file: PictureFile) -> dict:
        """What /history says of the picture; its url is relative to the server's address."""
        token = secrets.token_urlsafe(16)
        id = f"{token}.{self.signature(token)}"
        self.kept[id] = (file, asyncio.get_running_loop().call_later(SECONDS, self.kept.pop, id))
        if len(self.kept) > PICTURES:
            _, timer = self.kept.pop(next(iter(self.kept)))
            timer.cancel()
        return {"id": id, "url": ROUTE + id, "format": file.format, "width": file.width, "height": file.height}

    def signature(self, token: str) -> str:
        """What tells an id that was given out, however long ago, from one that never was."""
        return hashlib.blake2b(token.encode(), key=self.key, digest_size=16).hexdigest()

    async def answer(self, request: web.Request) -> web.Response:
        """For whoever knows the id."""
        id = request.match_info["id"]
        if id in self.kept:
            file, _ = self.kept[id]
            headers = {"Cache-Control": "private", "X-Content-Type-Options": "nosniff"}
            return web.Response(body=file.data, content_type=f"image/{file.format}", headers=headers)
        token, _, signature = id.partition(".")
        if hmac.compare_digest(signature.encode(), self.signature(token).encode()):
            raise web.HTTPGone(text=f"This picture is gone: the last {PICTURES} are kept, for {SECONDS // 60} minutes.")
        raise web.HTTPNotFound(text="No picture was sent under this id.")


pictures = Sent()
