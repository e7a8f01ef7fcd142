"""The bridge to applications: one request as an ASGI scope with its `receive` and `send`, and the lifespan.

The head of an answer waits for its first piece of body, so a short answer is one write and has its length even when the
application did not count. What an application gets wrong ends as a 500 before the head is sent, and as a cut connection after
it: a body that is shorter than it said must never look whole. An answer that has no end of its own waits for the event
`gyral.draining` of the scope's extensions; a stop would cut it off.

**Source**: ASGI 3.0, HTTP and lifespan protocols, spec version 2.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from gyral.errors import ServeError
from gyral.http import AsgiApp, Header
from gyral.serve.http1.answer import BODILESS, CONTINUE, LAST_CHUNK, SERVER, chunk, header_lines, status_line

if TYPE_CHECKING:
    from gyral.serve.http1.connection import Connection
    from gyral.serve.http1.request import Request

Message = MutableMapping[str, Any]
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_OURS = frozenset((b"transfer-encoding", b"connection", b"keep-alive", b"upgrade", b"trailer"))
_TOLD = _OURS | {b"content-length", b"date", b"server"}


def begin_app(connection: Connection, request: Request) -> None:
    """Start the application on a request."""
    site = connection.site
    scope: Message = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": request.version,
        "method": request.method,
        "scheme": site.scheme,
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": connection.address(),
        "server": connection.own_address(),
        "extensions": site.extensions,
    }
    if site.state:
        scope["state"] = site.state.copy()
    exchange = _Exchange(connection, request)
    request.work = site.loop.create_task(exchange.run(scope))


class _Exchange:
    """One request and its answer."""

    __slots__ = ("_connection", "_head", "_is_chunked", "_is_over", "_is_sent", "_is_told", "_left", "_request", "_status")

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._head = b""
        self._status = 0
        self._left = -1
        self._is_chunked = self._is_over = self._is_sent = self._is_told = False

    async def run(self, scope: Message) -> None:
        """Let the application answer; what it leaves undone is done here."""
        connection, request = self._connection, self._request
        app: Any = connection.site.app
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not request.is_gone and not self._is_over:
                connection.abort()
            raise
        except Exception as error:
            self._end(error)
        else:
            self._end(None)

    async def receive(self) -> Message:
        """The next piece of the body; `http.disconnect` when there is none to come or nobody to answer."""
        connection, request = self._connection, self._request
        while True:
            if request.is_gone or self._is_over:
                return {"type": "http.disconnect"}
            if request.parts or (request.is_complete and not self._is_told):
                body = request.parts[0] if len(request.parts) == 1 else b"".join(request.parts)
                request.parts = []
                self._is_told = request.is_complete
                taken, request.buffered = request.buffered, 0
                if taken > connection.site.limits.stream_bytes:
                    connection.settle()
                return {"type": "http.request", "body": body, "more_body": not request.is_complete}
            if request.fault is not None:
                return {"type": "http.disconnect"}
            if request.expects and not self._is_sent:
                request.expects = False
                connection.write(CONTINUE)
            request.wake = asyncio.get_running_loop().create_future()
            await request.wake

    async def send(self, message: Message) -> None:
        """Take a part of the answer.

        Raises
        ------
        OSError : the client has gone.  RuntimeError, ValueError : it is not a part that can be sent now.
        """
        kind = message["type"]
        if self._request.is_gone or self._connection.is_lost():
            raise OSError("the client has gone")
        if self._is_over:
            raise RuntimeError(f"`{kind}` after the answer's end")
        if not self._head:
            if self._request.fault is not None:  # what it says of half a request is told better by who broke it off
                raise OSError("the request was broken off")
            if kind != "http.response.start":
                raise RuntimeError(f"`{kind}` before `http.response.start`")
            self._begin(message)
        elif kind != "http.response.body":
            raise RuntimeError(f"`{kind}` after `http.response.start`")
        else:
            connection = self._connection
            self._write(message.get("body", b""), not message.get("more_body", False))
            if connection.drained is not None:
                await connection.drained
                if self._request.is_gone and not self._is_over:
                    raise OSError("the client has gone")

    def _begin(self, message: Message) -> None:
        self._status = status = int(message["status"])
        site = self._connection.site
        if status == 401 or site.attempts.wrong:
            site.attempts.answered(self._request, status, site.loop.time())
        first = status_line(status)
        head: list[Header] = []
        is_dated = is_named = False
        for name, value in message.get("headers", ()):
            if name not in _TOLD:
                name = name.lower()
                if name not in _TOLD:
                    head.append((name, value))
                    continue
            if name == b"content-length":
                if self._left >= 0 or not value.isdigit():
                    raise ValueError("`content-length` is no number, or there are two")
                self._left = int(value)
                if status not in BODILESS or status == 304:
                    head.append((name, value))
            elif name == b"connection":
                self._request.keep_alive &= value.lower() != b"close"
            elif name not in _OURS:
                is_dated |= name == b"date"
                is_named |= name == b"server"
                head.append((name, value))
        lines = header_lines(head)
        self._head = first + lines + (b"" if is_dated else self._connection.site.date) + (b"" if is_named else SERVER)

    def _write(self, body: bytes, is_last: bool) -> None:
        connection, request = self._connection, self._request
        is_bodiless = request.method == "HEAD" or self._status in BODILESS
        if is_bodiless:
            body = b""
        elif self._left >= 0:
            self._left -= len(body)
            if self._left < 0:
                raise ValueError("the body is longer than `content-length`")
            if is_last and self._left:
                raise ValueError("the body is shorter than `content-length`")
        data = b""
        if not self._is_sent:
            data = self._first(len(body) if is_last else -1, is_bodiless)
            self._is_sent = True
        if body:
            data += chunk(body) if self._is_chunked else body
        if is_last and self._is_chunked:
            data += LAST_CHUNK
        if data:
            connection.write(data)
        if is_last:
            self._is_over = True
            connection.done(request)
            request.rouse()

    def _first(self, length: int, is_bodiless: bool) -> bytes:
        """The head. `length` is that of the whole body, -1 when more is to come."""
        request = self._request
        lines = b""
        if self._left < 0 and not is_bodiless:
            if length >= 0:
                lines = b"content-length: %d\r\n" % length
            elif request.version == "1.1":
                self._is_chunked = True
                lines = b"transfer-encoding: chunked\r\n"
            else:
                request.keep_alive = False
        return b"%b%b%b\r\n" % (self._head, lines, self._connection.closing_line(request))

    def _end(self, error: Exception | None) -> None:
        """The application returned, or raised."""
        connection, request = self._connection, self._request
        if request.is_gone or self._is_over:
            if error is not None and not isinstance(error, OSError):
                connection.site.note(request, error)
            return
        request.work = None
        if self._is_sent:
            connection.site.note(request, error or RuntimeError("the application did not end its answer"))
            connection.abort()
        elif request.fault is not None:
            connection.fail(request, request.fault)
        else:
            connection.fail(request, error or RuntimeError("the application did not answer"))


class Lifespan:
    """The start and the stop of an application, which may know of neither.

    Parameters
    ----------
    state : handed to the application, which may put into it what its requests are to see.
    """

    def __init__(self, app: AsgiApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._told: asyncio.Queue[Message | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float) -> None:
        """Tell the application that it starts.

        Raises
        ------
        ServeError : it says that it cannot, or says nothing in time.
        """
        self._task = asyncio.ensure_future(self._run())
        told = await self._ask("lifespan.startup", timeout_s)
        if told is not None and told["type"] == "lifespan.startup.failed":
            raise ServeError("the application did not start", why=str(told.get("message", "")))

    async def stop(self, timeout_s: float) -> None:
        """Tell it that it stops; one that says nothing in time is cancelled."""
        if self._task is None:
            return
        try:
            if not self._task.done():
                await self._ask("lifespan.shutdown", timeout_s)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _ask(self, kind: str, timeout_s: float) -> Message | None:
        self._messages.put_nowait({"type": kind})
        try:
            return await asyncio.wait_for(self._told.get(), timeout_s)
        except TimeoutError:
            raise ServeError(f"the application did not answer `{kind}`", why=f"{timeout_s:g} s passed") from None

    async def _run(self) -> None:
        scope: Message = {"type": "lifespan", "asgi": _ASGI, "state": self._state}
        try:
            await self._app(scope, self._messages.get, self._tell)
        except Exception:  # it knows of no lifespan
            pass
        finally:
            self._told.put_nowait(None)

    async def _tell(self, message: Message) -> None:
        self._told.put_nowait(message)
