"""Reads the body of a request, within the limits of contract/body_limits.py."""

import asyncio
import contextlib
import gzip
import io
import zlib
from collections.abc import AsyncIterator

from aiohttp import web

from ..contract.body_limits import CHUNK_BYTES, SMALL_BODY_BYTES, BodyLimits
from ..contract.disconnect import CLIENT_CLOSED_REQUEST
from ..contract.errors import ApiError

ENCODINGS = ("gzip", "x-gzip", "deflate")


@contextlib.asynccontextmanager
async def read_body(request: web.Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    """The body, decompressed as its Content-Encoding says; ApiError where it is too large, too slow or broken.

    A large body keeps its place among the large ones until the block ends, as what is made of it is as large.
    """
    encoding = content_encoding(request)
    if (request.content_length or 0) > limits.max_bytes:
        raise limits.too_large_error()
    async with contextlib.AsyncExitStack() as stack:
        body = await read_chunk(request, SMALL_BODY_BYTES, limits)
        if encoding or len(body) == SMALL_BODY_BYTES:
            await stack.enter_async_context(limits.large_body())
            body = await read_rest(request, bytearray(body), limits)
        if encoding:
            body = await asyncio.to_thread(decompress, body, encoding, limits)
        yield bytes(body)


async def read_rest(request: web.Request, body: bytearray, limits: BodyLimits) -> bytearray:
    while chunk := await read_chunk(request, CHUNK_BYTES, limits):
        body += chunk
        if len(body) > limits.max_bytes:
            raise limits.too_large_error()
    return body


async def read_chunk(request: web.Request, size: int, limits: BodyLimits) -> bytes:
    """The next size bytes, or fewer where the body ends."""
    try:
        return await asyncio.wait_for(request.content.readexactly(size), limits.timeout_s)
    except asyncio.IncompleteReadError as end:
        return end.partial
    except asyncio.TimeoutError:
        error = limits.timed_out_error(size)
    except web.RequestPayloadError:
        error = ApiError(400, "The body is cut short, or broken where it is packed or in chunks.", close=True)
    except ConnectionError:
        raise ApiError(CLIENT_CLOSED_REQUEST, "The client has gone away.") from None
    request.content.feed_eof()  # aiohttp waits for no more of it, which would raise again what ended it
    raise error


def decompress(compressed: bytes, encoding: str, limits: BodyLimits) -> bytes:
    try:
        body = (inflate if encoding == "deflate" else gunzip)(compressed, limits.max_bytes + 1)
    except (EOFError, OSError, zlib.error):
        raise ApiError(400, f"The body is broken or cut short: it is not what {encoding} makes.", close=True) from None
    if len(body) > limits.max_bytes:
        raise limits.too_large_error()
    return body


def content_encoding(request: web.Request) -> str | None:
    """The encoding to decompress; None if the body is plain, or aiohttp decompresses it, as it does on other connections.

    ApiError 415 for an encoding that is not understood.
    """
    names = ",".join(request.headers.getall("Content-Encoding", [])).lower().split(",")
    names = [name for name in map(str.strip, names) if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in ENCODINGS:
        message = f"Content-Encoding {', '.join(names)[:80]!r} is not understood: send gzip, deflate or a plain body."
        raise ApiError(415, message, {"Accept-Encoding": "gzip, deflate"})
    is_compressed = getattr(request.content, "total_compressed_bytes", 0) is None
    return names[0] if is_compressed else None


def gunzip(compressed: bytes, max_bytes: int) -> bytes:
    """At most max_bytes. EOFError, OSError or zlib.error where it isn't whole."""
    with gzip.GzipFile(fileobj=io.BytesIO(compressed)) as file:
        return file.read(max_bytes)


def inflate(compressed: bytes, max_bytes: int) -> bytes:
    """As gunzip, of zlib's format, or of raw deflate, which some clients send under the same name."""
    has_header = bool(compressed) and compressed[0] & 0xF == 8  # RFC 1950, 2.2
    stream = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    body = stream.decompress(compressed, max_bytes)
    if len(body) < max_bytes and (not stream.eof or stream.unused_data):
        raise EOFError
    return body
