"""A request as a fast handler sees it, and the routes that have one.

A handler is a function of the request. It returns the answer at once, when that costs less than a hop (a task is about 5 µs, an
answer 9); or a future that something else resolves, a batcher for example, which costs no task; or it is `async def`. When the
client goes, the future or task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from gyral.http import Header, Refused
from gyral.serve.http1.answer import Response, Stream
from gyral.serve.http1.head import decoded

if TYPE_CHECKING:
    from gyral.serve.http1.connection import Connection

Told: TypeAlias = Response | Stream
Handle: TypeAlias = "Callable[[Request], Told | Awaitable[Told]]"


class Route(msgspec.Struct, frozen=True):
    """A path's handler: which methods it answers, and its own limit of a body, -1 for that of all."""

    handle: Handle
    methods: tuple[str, ...] = ("POST",)
    max_body_bytes: int = -1


class Request:
    """One request. What a handler reads: `method`, `path`, `query`, `headers` (names in lower case), `body`, `client`."""

    __slots__ = (
        "body",
        "buffered",
        "connection",
        "cross",
        "expects",
        "fault",
        "headers",
        "held",
        "is_complete",
        "is_gone",
        "is_over",
        "keep_alive",
        "length",
        "method",
        "parts",
        "query",
        "raw_path",
        "received",
        "route",
        "version",
        "wake",
        "work",
    )

    def __init__(self, connection: Connection, method: str, version: str, headers: list[Header]) -> None:
        self.connection = connection
        self.method = method
        self.version = version
        self.headers = headers
        self.raw_path = self.query = self.body = self.cross = b""
        """Last: header lines for a page of another site that may read the answer."""
        self.route: Route | None = None
        self.keep_alive = True
        self.length = self.received = self.buffered = self.held = 0
        """Last: bytes of its body that count as held until it is answered."""
        self.parts: list[bytes] = []
        self.expects = self.is_complete = self.is_gone = self.is_over = False
        self.fault: Refused | None = None
        self.wake: asyncio.Future[None] | None = None
        self.work: asyncio.Future[Any] | None = None

    @property
    def path(self) -> str:
        """The path as text."""
        return decoded(self.raw_path)

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the other side."""
        return self.connection.address()

    def header(self, name: bytes) -> bytes:
        """Value of a header, empty when it was not sent."""
        return next((value for key, value in self.headers if key == name), b"")

    def is_unread(self) -> bool:
        """Whether more of its body is to come than is worth reading away, so that the connection has to go."""
        if self.is_complete:
            return False
        return self.expects or self.length < 0 or self.length - self.received > self.connection.site.limits.stream_bytes

    def rouse(self) -> None:
        """Wake who waits for more of the body, or for the client to go."""
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)
