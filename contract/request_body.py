"""The bodies of requests that are not in the line yet: few large ones in memory at a time, and none that stands still."""

import asyncio
import contextlib
import gzip
import io
import zlib
from collections.abc import AsyncIterator

from aiohttp import web

from .disconnect import CLIENT_CLOSED_REQUEST
from .responses import Refused

SMALL = 2**16  # bytes: a request in words, which is read at once
AT_ONCE = 4  # larger or packed ones that are read; the others wait with their bytes unread
TURN = 60.0  # seconds that they wait
PART = 2**19  # bytes of a larger one (of a small one: all) that must come
PATIENCE = 10.0  # within so many seconds
PACKED = ("gzip", "x-gzip", "deflate")


class Bodies:
    """For use on the server's event loop alone."""

    def __init__(self, most_mib: int, patience: float = PATIENCE):
        self.most_mib, self.patience = most_mib, patience
        self.turns = asyncio.Semaphore(AT_ONCE)

    @contextlib.asynccontextmanager
    async def of(self, request: web.Request) -> AsyncIterator[bytes]:
        """The body, unpacked as its Content-Encoding says; Refused where it is too large, too slow or broken.

        A larger one has its turn until the block ends, as what is made of it is as large.
        """
        encoding = packed_as(request)
        if (request.content_length or 0) > self.most_bytes:
            raise self.too_large()
        async with contextlib.AsyncExitStack() as stack:
            body = await self.part(request, SMALL)
            if encoding or len(body) == SMALL:
                await stack.enter_async_context(self.turn())
                body = await self.rest(request, bytearray(body))
            if encoding:
                body = await asyncio.to_thread(self.unpacked, body, encoding)
            yield bytes(body)

    @property
    def most_bytes(self) -> int:
        return self.most_mib * 2**20

    def too_large(self) -> Refused:
        return Refused(413, f"The body is larger than {self.most_mib} MiB.", close=True)

    def stands_still(self, part: int) -> Refused:
        said = f"The body stands still: its next {part // 2**10} KiB did not come within {self.patience:g} s."
        return Refused(408, said, close=True)

    @contextlib.asynccontextmanager
    async def turn(self):
        try:
            await asyncio.wait_for(self.turns.acquire(), TURN)
        except asyncio.TimeoutError:
            again = {"Retry-After": str(round(self.patience))}
            said = f"Too many large bodies are on their way; ask again in {again['Retry-After']} s."
            raise Refused(429, said, again, close=True) from None
        try:
            yield
        finally:
            self.turns.release()

    async def rest(self, request: web.Request, body: bytearray) -> bytearray:
        while part := await self.part(request, PART):
            body += part
            if len(body) > self.most_bytes:
                raise self.too_large()
        return body

    async def part(self, request: web.Request, most: int) -> bytes:
        """The next bytes: so many, unless the body ends before."""
        try:
            return await asyncio.wait_for(request.content.readexactly(most), self.patience)
        except asyncio.IncompleteReadError as ended:
            return ended.partial
        except asyncio.TimeoutError:
            refused = self.stands_still(most)
        except web.RequestPayloadError:
            refused = Refused(400, "The body is cut short, or broken where it is packed or in chunks.", close=True)
        except ConnectionError:
            raise Refused(CLIENT_CLOSED_REQUEST, "The client has gone away.") from None
        request.content.feed_eof()  # aiohttp waits for no more of it, which would raise again what ended it
        raise refused

    def unpacked(self, packed: bytes, encoding: str) -> bytes:
        try:
            found = (inflated if encoding == "deflate" else gunzipped)(packed, self.most_bytes + 1)
        except (EOFError, OSError, zlib.error):
            raise Refused(400, f"The body is broken or cut short: it is not what {encoding} makes.", close=True) from None
        if len(found) > self.most_bytes:
            raise self.too_large()
        return found


def packed_as(request: web.Request) -> str | None:
    """What is left to unpack: None if the body is plain, or aiohttp unpacks it, as it does where it finds out in time."""
    names = ",".join(request.headers.getall("Content-Encoding", [])).lower().split(",")
    names = [name for name in map(str.strip, names) if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in PACKED:
        said = f"Content-Encoding {', '.join(names)[:80]!r} is not understood: send gzip, deflate or a plain body."
        raise Refused(415, said, {"Accept-Encoding": "gzip, deflate"})
    as_it_came = getattr(request.content, "total_compressed_bytes", 0) is None
    return names[0] if as_it_came else None


def gunzipped(packed: bytes, most: int) -> bytes:
    """At most so many bytes. EOFError, OSError or zlib.error where it isn't whole."""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        return file.read(most)


def inflated(packed: bytes, most: int) -> bytes:
    """As above, of zlib's format, or, as some send under the same name, without its head."""
    with_head = bool(packed) and packed[0] & 0xF == 8  # RFC 1950, 2.2
    stream = zlib.decompressobj(zlib.MAX_WBITS if with_head else -zlib.MAX_WBITS)
    found = stream.decompress(packed, most)
    if len(found) < most and (not stream.eof or stream.unused_data):
        raise EOFError
    return found
