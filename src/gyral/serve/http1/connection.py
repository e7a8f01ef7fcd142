"""One connection: requests are answered one after the other in their order, and it is closed in a known way.

`_go_on` begins the next request when the one before is answered. What is answered while bytes are being taken in is written in
one piece, so a pipeline costs one system call. Decided where HTTP leaves it open: a client that shuts its side has gone (as
nginx, hyper and uvicorn see it), so work for it stops; `upgrade` is ignored and the connection closed after the answer; a
connection whose body was not read is heard for a moment before it closes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gyral.http import Refused
from gyral.serve.http1.answer import CONTINUE, Response, Stream, refusal, whole
from gyral.serve.http1.asgi import begin_app
from gyral.serve.http1.limits import KIB
from gyral.serve.http1.reader import Reader
from gyral.serve.http1.request import Request, Told
from gyral.serve.http1.stream import send_stream
from gyral.serve.http1.waits import Waits

if TYPE_CHECKING:
    from gyral.serve.http1.site import Site


class Connection(asyncio.BufferedProtocol):
    """The protocol of one socket."""

    __slots__ = (
        "_client",
        "_current",
        "_is_closing",
        "_is_paused",
        "_kind",
        "_out",
        "_own",
        "_reader",
        "_transport",
        "_waiting",
        "drained",
        "site",
    )

    def __init__(self, site: Site) -> None:
        self.site = site
        self.drained: asyncio.Future[None] | None = None
        """Resolved when the client has taken enough of what was written; None while it does."""
        self._current: Request | None = None
        self._waiting: list[Request] = []
        self._reader = Reader(self, self._waiting)
        self._out: list[bytes] | None = None
        self._kind: Waits[Connection] | None = None
        self._is_closing = self._is_paused = False
        self._transport: Any = None
        self._client: tuple[str, int] | None = None
        self._own: tuple[str, int] | None = None

    def address(self) -> tuple[str, int] | None:
        """Address and port of the other side."""
        if self._client is None:
            self._client = _named(self._transport, "peername")
        return self._client

    def own_address(self) -> tuple[str, int] | None:
        """Address and port of this side."""
        if self._own is None:
            self._own = _named(self._transport, "sockname")
        return self._own

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        site = self.site
        site.connections.add(self)
        if len(site.connections) > site.limits.max_connections + site.limits.max_told():
            self.abort()
        elif len(site.connections) > site.limits.max_connections:
            again = ((b"retry-after", b"1"),)
            self._reader.fail(Refused(503, "too many connections are open", hint="try again", headers=again))
            self._go_on()
        else:
            self._wait(site.idle)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.site.view  # no bytearray: asyncio's TLS fills a slice of it, which would be a copy

    def buffer_updated(self, nbytes: int) -> None:
        if not self._reader.is_deaf:
            self._reader.feed(self.site.view[:nbytes])
            self._go_on()

    def eof_received(self) -> None:
        if self._transport.get_write_buffer_size():
            self.site.writing.put(self, self.site.loop.time())

    def pause_writing(self) -> None:
        self.drained = self.site.loop.create_future()
        self.site.writing.put(self, self.site.loop.time())

    def resume_writing(self) -> None:
        if not self._is_closing:
            self.site.writing.drop(self)
        self._release()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._wait(None)
        self.site.writing.drop(self)
        self.site.connections.discard(self)
        for each in (self._current, self._reader.incoming, *self._waiting):
            if each is not None:
                self.site.let_go(each)
        self._waiting.clear()
        self._reader.close()
        self._release()
        current, self._current = self._current, None
        if current is not None:
            current.is_gone = True
            current.rouse()
            if current.route is not None and current.work is not None:
                current.work.cancel()

    # what handlers and applications call

    def is_lost(self) -> bool:
        """Whether nothing that is written now can arrive; `connection_lost` follows."""
        return bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """Send bytes, together with others while bytes are being taken in."""
        if self._transport.is_closing():
            return
        if self._out is None:
            self._transport.write(data)
        else:
            self._out.append(data)
            if len(data) >= 16 * KIB or len(self._out) >= 64:
                self._flush()

    def closing_line(self, request: Request) -> bytes:
        """The header that says what becomes of the connection; decides it. Headers for another site's page follow."""
        is_last = self.site.is_draining and not self._waiting and self._reader.incoming in (None, request)
        if is_last or request.is_unread():
            request.keep_alive = False
        if not request.keep_alive:
            return b"connection: close\r\n" + request.cross
        return b"connection: keep-alive\r\n" + request.cross if request.version == "1.0" else request.cross

    def answer(self, request: Request, response: Response) -> None:
        """Send a whole answer and be done with the request."""
        if response.status == 401 or self.site.attempts.wrong:
            self.site.attempts.answered(request, response.status, self.site.loop.time())
        closing, is_head = self.closing_line(request), request.method == "HEAD"
        try:
            data = whole(response, self.site.date, closing, is_head)
        except (ValueError, TypeError) as error:
            self.site.note(request, error)
            failed = Refused(500, "the answer could not be sent", hint="the server's log says why")
            data = whole(refusal(failed, request.path), self.site.date, closing, is_head)
        self.write(data)
        self.done(request)

    def fail(self, request: Request, error: BaseException) -> None:
        """Answer with what a handler raised."""
        if isinstance(error, asyncio.CancelledError):
            again = ((b"retry-after", b"1"),)
            error = Refused(503, "the request was cancelled here", hint="try again", headers=again)
        elif not isinstance(error, Refused):
            self.site.note(request, error)
            error = Refused(500, "the request could not be answered", hint="the server's log says why")
        self.answer(request, refusal(error, request.path))

    def done(self, request: Request) -> None:
        """The answer is written: close, or go on to the next request."""
        request.is_over = True
        request.parts = []
        request.buffered = 0
        self.site.let_go(request)
        self._current = None
        if not request.keep_alive:
            self._close(request.fault is not None or not request.is_complete)
        else:
            self._go_on()
            if self.site.is_draining:  # its head promised to stay open, before the stop
                self.part()

    def settle(self) -> None:
        """Read on or not, and set the wait for what is to come."""
        if self._is_closing:
            return
        site, incoming = self.site, self._reader.incoming
        is_next = self._current is None and not self._waiting
        if is_next and incoming is not None and incoming.expects and incoming.route is not None:
            incoming.expects = False
            self._transport.write(CONTINUE)
        if len(self._waiting) >= site.limits.max_waiting or (
            incoming is not None and incoming.buffered > site.limits.stream_bytes
        ):
            if not self._is_paused and not self._transport.is_closing():
                self._is_paused = True
                self._transport.pause_reading()
            self._wait(None)
            return
        self._resume()
        if incoming is not None:
            self._wait(site.body)
        elif self._reader.is_head_open:
            self._wait(site.head)
        elif is_next:
            self._reader.is_fresh = True
            self._wait(site.idle)
        else:
            self._wait(None)

    # what the server calls

    def part(self) -> None:
        """Close if nothing is asked and nothing is coming."""
        reader = self._reader
        if self._current is None and not self._waiting and reader.incoming is None and not reader.is_head_open:
            self._close(False)

    def time_out(self) -> None:
        """The client took too long to send what it began."""
        what = "body" if self._reader.incoming is not None else "head"
        self.break_off(Refused(408, f"the {what} of the request did not come in time", hint="send it faster"))

    def break_off(self, refused: Refused) -> None:
        """What is being sent is not taken; it is waited for no longer."""
        self._kind = None
        if self._reader.incoming is not None:
            self.site.let_go(self._reader.incoming)
        self._reader.fail(refused)
        self._go_on()

    def abort(self) -> asyncio.Future[Any] | None:
        """Cut the connection off; what still works for it, told to stop."""
        self._is_closing = self._reader.is_deaf = True
        work = self._current.work if self._current is not None else None
        if work is not None:
            work.cancel()
        self._transport.abort()
        return work

    # inside

    def _go_on(self) -> None:
        """Begin what can be begun, send what was answered, and set the wait for what is to come."""
        if self._out is not None:  # called from within a write
            return
        self._out = []
        waiting = self._waiting
        try:
            while self._current is None and waiting and self.drained is None and not self._is_closing:
                self._begin(waiting.pop(0))
            self._flush()
        finally:
            self._out = None
        if self._reader.is_deaf and self._current is None and not waiting and self.drained is None and not self._is_closing:
            self._close(True)  # what came after a request that was answered early is no body
        self.settle()

    def _begin(self, request: Request) -> None:
        self._current = request
        route = request.route
        if request.fault is not None:
            self.answer(request, refusal(request.fault, request.path))
        elif route is None:
            begin_app(self, request)
        elif request.method in route.methods or (request.method == "HEAD" and "GET" in route.methods):
            try:
                told = route.handle(request)
            except Exception as error:
                self.fail(request, error)
                return
            if type(told) is Response:
                self.answer(request, told)
            else:
                self._later(request, told)
        else:
            allowed = ", ".join(route.methods)
            headers = ((b"allow", allowed.encode()),)
            self.fail(request, Refused(405, f"`{request.method}` is not allowed here", hint=f"use {allowed}", headers=headers))

    def _later(self, request: Request, told: Any) -> None:
        """An answer that is not there yet, or comes in pieces."""
        if isinstance(told, Stream):
            told = send_stream(self, request, told)
        try:
            request.work = asyncio.ensure_future(told)
        except TypeError:
            self.fail(request, TypeError(f"the handler returned {type(told).__name__}, not a Response"))
            return
        request.work.add_done_callback(lambda work: self._told(request, work))

    def _told(self, request: Request, work: asyncio.Future[Told | None]) -> None:
        error = None if work.cancelled() else work.exception()
        if self._current is not request:  # the client has gone, or it was a stream that has ended
            return
        request.work = None
        if work.cancelled():
            self.fail(request, asyncio.CancelledError())
        elif error is not None:
            self.fail(request, error)
        elif isinstance(told := work.result(), Response):
            self.answer(request, told)
        else:
            self._later(request, told)

    def _close(self, is_heard: bool) -> None:
        """Close once all is sent; a client that still sends is heard for a while, so that no reset destroys the answer."""
        self._flush()
        self._is_closing = self._reader.is_deaf = True
        for each in self._waiting:
            self.site.let_go(each)
        self._waiting.clear()
        site, transport = self.site, self._transport
        if is_heard and transport.can_write_eof() and not transport.is_closing():
            self._resume()
            transport.write_eof()
            self._wait(site.linger)
            return
        self._wait(None)
        transport.close()
        if transport.get_write_buffer_size():
            site.writing.put(self, site.loop.time())

    def _flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            if not self._transport.is_closing():
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _wait(self, kind: Waits[Connection] | None) -> None:
        reader = self._reader
        if kind is self._kind and not reader.is_fresh:
            return
        if self._kind is not None and self._kind is not kind:
            self._kind.drop(self)
        self._kind = kind
        reader.is_fresh = False
        if kind is not None:
            kind.put(self, self.site.loop.time())

    def _release(self) -> None:
        if self.drained is not None:
            if not self.drained.done():
                self.drained.set_result(None)
            self.drained = None


def _named(transport: Any, which: str) -> tuple[str, int] | None:
    name = transport.get_extra_info(which)
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
