"""Bodies of HTTP responses without their packing, never more of it than a limit.

A header that names a packing which the body does not have is common (crawlers unpack and keep the header), so the first bytes
decide, and a body that cannot be unpacked is corrupt.
"""

from __future__ import annotations

import io
import re
import zlib
from typing import Any

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]{0,256}\r?\n")


class TooLarge(Exception):
    """A body unpacks to more than the limit."""


def unpacked(body: bytes, headers: Any, limit: int) -> bytes:
    """A body without chunks and packing.

    Raises
    ------
    TooLarge : it unpacks to more than `limit` bytes.
    EOFError : it is cut off, or not what its first bytes say.
    """
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
        body = _joined(body)
    for packing in reversed((headers.get("Content-Encoding") or "").lower().split(",")):
        body = _without(body, packing.strip(), limit)
    return body


def _joined(body: bytes) -> bytes:
    pieces, at = [], 0
    while match := _CHUNK.match(body, at):
        size, at = int(match.group(1), 16), match.end()
        if not size:
            break
        pieces.append(body[at : at + size])
        at += size + 2
        if at > len(body) + 2:
            raise EOFError("a chunk is cut off")
    return b"".join(pieces) if pieces else body


def _without(body: bytes, packing: str, limit: int) -> bytes:
    try:
        if packing in ("gzip", "x-gzip") and body[:2] == b"\x1f\x8b":
            return _inflated(body, 31, limit)
        if packing == "deflate" and body:
            return _inflated(body, 15 if body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0 else -15, limit)
        if packing == "br" or (packing == "zstd" and body[:4] == b"\x28\xb5\x2f\xfd"):
            return _streamed(body, packing, limit)
    except (zlib.error, OSError, IndexError) as error:
        raise EOFError(str(error)) from None
    return body


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    member = zlib.decompressobj(window)
    plain = member.decompress(body, limit + 1)
    if len(plain) > limit:
        raise TooLarge
    if not member.eof:
        raise EOFError("it is cut off")
    return plain


def _streamed(body: bytes, packing: str, limit: int) -> bytes:
    from fastwarc.stream_io import BrotliReader, ZstdReader

    plain = bytes((BrotliReader if packing == "br" else ZstdReader)(io.BytesIO(body)).read(limit + 1))
    if len(plain) > limit:
        raise TooLarge
    return plain
