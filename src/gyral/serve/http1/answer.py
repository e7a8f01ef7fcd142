"""How answers look on the wire: one format operation for a whole answer, and no header that ends a line.

A head is written once for each pair of status and media type and kept; what changes is the length, the date and what a handler
adds. Names and values that a handler adds are looked at every time: a line end in a value, perhaps copied from the request,
would let a client write headers, or a second answer, of its own.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from email.utils import formatdate
from http import HTTPStatus

import msgspec

from gyral.http import JSON, Header, Refused

SERVER = b"server: gyral\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
BODILESS = frozenset((204, 205, 304))
_MAX_KEPT = 1_000
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PHRASES = {each.value: each.phrase.encode() for each in HTTPStatus}
_known_names: set[bytes] = set()
_lines: dict[int, bytes] = {}
_starts: dict[tuple[int, bytes], bytes] = {}


class Response(msgspec.Struct):
    """A whole answer of a fast handler."""

    body: bytes = b""
    status: int = 200
    headers: tuple[Header, ...] = ()
    """Further ones, names in lower case; length, date and connection are the server's."""
    media: bytes = JSON[1]


class Stream(msgspec.Struct):
    """An answer that comes in pieces; each is sent as soon as it is there.

    Closed early when the client goes: the iterator sees `CancelledError`, or `GeneratorExit` between two pieces.
    """

    pieces: AsyncIterator[bytes]
    status: int = 200
    headers: tuple[Header, ...] = ((b"cache-control", b"no-store"),)
    media: bytes = b"text/event-stream"


def date_line() -> bytes:
    """The date of now, as a header."""
    return b"date: " + formatdate(usegmt=True).encode() + b"\r\n"


def status_line(status: int) -> bytes:
    """The first line of an answer.

    Raises
    ------
    ValueError : it is not the status of an answer.
    """
    found = _lines.get(status)
    if found is None:
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not the status of an answer")
        found = _lines[status] = b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, b""))
    return found


def header_lines(headers: Iterable[Header]) -> bytes:
    """Headers as lines.

    Raises
    ------
    ValueError : a name is no token, or a value holds a line end or a zero.
    """
    lines = b""
    for name, value in headers:
        if name not in _known_names:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} is not the name of a header")
            if len(_known_names) < _MAX_KEPT:
                _known_names.add(bytes(name))
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise ValueError(f"the value of the header `{name.decode()}` holds a line end")
        lines += name + b": " + value + b"\r\n"
    return lines


def start(status: int, media: bytes) -> bytes:
    """First line, media type and server, kept for the next time."""
    found = _starts.get((status, media))
    if found is None:
        found = status_line(status) + SERVER
        if status not in BODILESS:
            found += header_lines(((b"content-type", media),))
        if len(_starts) < _MAX_KEPT:
            _starts[status, media] = found
    return found


def whole(response: Response, date: bytes, closing: bytes, is_head: bool) -> bytes:
    """A whole answer; `closing` is the line that says what becomes of the connection, or nothing."""
    status, body = response.status, response.body
    extra = closing + header_lines(response.headers) if response.headers else closing
    first = start(status, response.media)
    if status in BODILESS:
        return b"%b%b%b\r\n" % (first, date, extra)
    return b"%bcontent-length: %d\r\n%b%b\r\n%b" % (first, len(body), date, extra, b"" if is_head else body)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; it must not be empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def refusal(refused: Refused, where: str) -> Response:
    """A refusal as an answer: what, where, why, hint."""
    error = {"what": refused.what, "where": where[:200], "why": refused.why, "hint": refused.hint}
    return Response(msgspec.json.encode({"error": error}), refused.status, refused.headers)
