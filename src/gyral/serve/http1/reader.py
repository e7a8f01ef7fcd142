"""Bytes → requests: what llhttp finds becomes requests in a list, within limits, and nothing runs here.

A request to a fast handler is listed when it is whole, one to an application with its head, and its body is handed on as it
comes. After anything that is not HTTP nothing more is read: where the next request would begin is then the client's word
against ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httptools

from gyral.http import Header, Refused
from gyral.http.origins import preflight, readable_by
from gyral.serve.http1.answer import Response
from gyral.serve.http1.head import judge
from gyral.serve.http1.limits import KIB
from gyral.serve.http1.request import Request, Route

if TYPE_CHECKING:
    from gyral.serve.http1.connection import Connection

MAX_FRAMING = 16 * KIB
"""Chunk heads and trailers of a body may be this large and eight times the body: a chunk of one byte costs six."""
_REQUEST_LINE = re.compile(rb"(?:\A|\n)([!#$%&'*+.^_`|~0-9A-Za-z-]+) [^ \r\n]+ HTTP/1")
_KNOWN = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"

_PREFLIGHT = Route(lambda _: Response(status=204, headers=preflight()), ("OPTIONS",), 0)


class _Stop(Exception):
    """Ends parsing from within a callback."""


class Reader:
    """The reading half of a connection.

    Parameters
    ----------
    waiting : requests are appended to it, in their order.
    """

    __slots__ = (
        "_connection",
        "_framing",
        "_head_fed",
        "_headers",
        "_is_resumed",
        "_last",
        "_parser",
        "_refused",
        "_size",
        "_target",
        "_waiting",
        "incoming",
        "is_deaf",
        "is_fresh",
        "is_head_open",
    )

    def __init__(self, connection: Connection, waiting: list[Request]) -> None:
        self._connection = connection
        self._waiting = waiting
        self.incoming: Request | None = None
        """The request whose body is still coming."""
        self.is_head_open = False
        self.is_deaf = False
        """Whether whatever still comes is thrown away."""
        self.is_fresh = False
        """Whether the client got on since somebody looked, so that its time begins anew."""
        self._is_resumed = False
        """Whether another parser is told again what the last one knew."""
        self._last: Request | None = None
        self._target = b""
        self._headers: list[Header] = []
        self._size = self._head_fed = self._framing = 0
        self._refused: Refused | None = None
        self._parser: Any = httptools.HttpRequestParser(self)

    def feed(self, data: memoryview) -> None:
        """Take in what came; never raises."""
        if self.is_deaf:
            return
        incoming, was_open = self.incoming, self.is_head_open
        received = incoming.received if incoming is not None else 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self.is_deaf:
                self.fail(self._refused or _not_http(error, data))
        if was_open and self.is_head_open:
            self._head_fed += len(data)
            if self._head_fed > self._connection.site.limits.max_head_bytes:
                self.fail(self._too_much())
        elif incoming is not None and incoming is self.incoming and incoming.length < 0:
            self._framing += len(data) - incoming.received + received
            if self._framing > MAX_FRAMING + 8 * incoming.received:
                self.fail(Refused(400, "the body is nearly all chunk heads", hint="send larger chunks"))

    def fail(self, refused: Refused) -> None:
        """What comes in is no request: that is answered in its turn, and no more is heard."""
        self.is_deaf = True
        request, self.incoming = self.incoming, None
        self.is_head_open = False
        is_listed = request is not None and request.route is None
        if request is None:
            request = Request(self._connection, "GET", "1.1", [])
            request.raw_path = self._target.partition(b"?")[0]
        request.fault = refused
        request.keep_alive = False
        request.parts = []
        if is_listed:
            request.rouse()  # the application is told that nothing more comes
        elif not request.is_over:
            self._waiting.append(request)

    def close(self) -> None:
        """Let go of the parser, which holds methods of this object."""
        self.is_deaf = True
        self._parser = self.incoming = self._last = None

    # what the parser calls

    def on_message_begin(self) -> None:
        if self._is_resumed:
            return
        self._target = b""
        self._headers = []
        self._size = self._head_fed = 0
        self.is_head_open = self.is_fresh = True

    def on_url(self, url: bytes) -> None:
        if self._is_resumed:
            return
        self._target += url
        self._size += len(url)
        limit = self._connection.site.limits.max_target_bytes
        if self._size > limit:
            self._stop(Refused(414, "the target is too long", hint=f"at most {limit:,} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_resumed:
            return
        self._size += len(name) + len(value)
        limits = self._connection.site.limits
        if self._size > limits.max_head_bytes or len(self._headers) >= limits.max_headers:
            self._stop(self._too_much())
        if self.incoming is None:  # else a trailer, which nobody reads
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._is_resumed:
            return
        method, version = self._parser.get_method(), self._parser.get_http_version()
        self.is_head_open = False
        self.is_fresh = True
        self._framing = 0
        request = Request(self._connection, method.decode(), version, self._headers)
        try:
            head = judge(method, self._target, version, self._headers)
            origins = self._connection.site.origins
            origin = origins.check(request.method, self._headers) if origins is not None else b""
            site = self._connection.site
            if site.attempts.wrong:
                request.raw_path = head.path
                site.attempts.check(request, site.loop.time())
        except Refused as refused:
            self._stop(refused)
        request.raw_path, request.query, request.keep_alive = head.path, head.query, head.keep_alive
        request.length, request.expects = head.length, head.expects and head.length != 0
        request.route = site.routes.get(head.path, site.other)
        if origin:
            request.cross = readable_by(origin)
            if method == b"OPTIONS":
                request.route = _PREFLIGHT
        self.incoming = self._last = request
        if request.route is None:
            self._waiting.append(request)
        elif request.length > self._limit(request):
            self._stop(self._too_large(request))

    def on_body(self, body: bytes) -> None:
        request = self.incoming
        if request is None:
            return
        before = request.received
        request.received += len(body)
        self.is_fresh |= request.received >> 16 != before >> 16
        if request.is_over:  # answered already; the rest is only read away
            return
        request.parts.append(body)
        site = self._connection.site
        request.held += len(body)
        site.held_bytes += len(body)
        if site.held_bytes > site.limits.max_held_bytes:
            try:
                site.make_room(self._connection)
            except Refused as refused:
                self._stop(refused)
        if request.route is None:
            request.buffered += len(body)
            request.rouse()
        elif request.received > self._limit(request):
            self._stop(self._too_large(request))

    def on_message_complete(self) -> None:
        request = self.incoming
        if request is None or (request.length and self._parser.should_upgrade()):
            return  # the parser leaves out the body of a request that would change the protocol
        self.incoming = None
        request.is_complete = True
        if request.route is not None:
            parts = request.parts
            request.body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._waiting.append(request)
        else:
            request.rouse()
        if not request.keep_alive:
            self.is_deaf = True

    # inside

    def _upgraded(self, rest: memoryview) -> None:
        """A request would change the protocol: it is answered in this one, and what follows its body is not HTTP.

        Java's client asks so with its first `POST`. The parser takes such a request to have no body, so another one reads it.
        """
        if self._last is not None:
            self._last.keep_alive = False
        if self.incoming is None:
            self.is_deaf = True
            return
        length = self.incoming.length
        framing = b"content-length: %d" % length if length > 0 else b"transfer-encoding: chunked"
        self._parser = httptools.HttpRequestParser(self)
        self._is_resumed = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%b\r\n\r\n" % framing)
        self._is_resumed = False
        if rest:
            self.feed(rest)

    def _stop(self, refused: Refused) -> Any:
        self._refused = refused
        raise _Stop

    def _limit(self, request: Request) -> int:
        own = request.route.max_body_bytes if request.route is not None else -1
        return own if own >= 0 else self._connection.site.limits.max_body_bytes

    def _too_large(self, request: Request) -> Refused:
        limit = self._limit(request)
        return Refused(413, f"the body has more than {limit:,} bytes", hint=f"at most {limit:,} are taken")

    def _too_much(self) -> Refused:
        limits = self._connection.site.limits
        hint = f"at most {limits.max_headers} headers, {limits.max_head_bytes:,} bytes with the target"
        return Refused(431, "the head of the request is too large", hint=hint)


def _not_http(error: Exception, data: memoryview) -> Refused:
    is_method = isinstance(error, httptools.HttpParserInvalidMethodError)
    if is_method and any(found not in _KNOWN for found in _REQUEST_LINE.findall(data)):
        return Refused(501, "the method is not known here", hint=f"use {_METHODS}")
    if "HTTP version" in str(error) or "PRI" in str(error):
        return Refused(505, "this version of HTTP is not spoken here", hint="use HTTP/1.1")
    return Refused(400, "what was sent is not HTTP", why=str(error), hint="check line ends, `content-length` and chunks")
