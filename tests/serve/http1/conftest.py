"""A server on a real socket or on none, and h11 as the client that says what was answered."""

import asyncio
import contextlib

import h11
import pytest
import uvloop

from gyral.http import read_body, reply
from gyral.serve.http1.answer import Response, Stream
from gyral.serve.http1.connection import Connection
from gyral.serve.http1.limits import Limits
from gyral.serve.http1.request import Route
from gyral.serve.http1.server import Server, listen
from gyral.serve.http1.site import Site


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on each kind of loop, at most 20 s."""

    def run(coroutine):
        async def bounded():
            async with asyncio.timeout(20):
                return await coroutine

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(bounded())

    return run


def echo(request):
    return Response(b"%b %b?%b:%b" % (request.method.encode(), request.raw_path, request.query, request.body))


async def slow_echo(request):
    await asyncio.sleep(0)
    return echo(request)


def future_echo(request):
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.done() or future.set_result(echo(request)))
    return future


def piecewise(request):
    async def pieces():
        for byte in echo(request).body:
            yield bytes([byte])

    return Stream(pieces())


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = await read_body(scope, receive, 1 << 20)
    echoed = b"%b %b?%b:%b" % (scope["method"].encode(), scope["raw_path"], scope["query_string"], body)
    if scope["path"] == "/app/pieces":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for byte in echoed:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    else:
        await reply(send, 200, echoed)


ANY = ("GET", "POST", "PUT", "DELETE")
ROUTES = {
    "/fast": Route(echo, ANY),
    "/slow": Route(slow_echo, ANY),
    "/future": Route(future_echo, ANY),
    "/pieces": Route(piecewise, ANY),
    "/small": Route(echo, ANY, max_body_bytes=10),
}


@contextlib.asynccontextmanager
async def serving(app=app, routes=ROUTES, limits=None, tls=None, notes=None):
    """A server on a free port; ends without a connection left."""
    server = Server(app, routes, limits=limits or Limits(), tls=tls, note=(notes if notes is not None else []).append)
    with contextlib.closing(listen("127.0.0.1", 0)) as sock:
        await server.start(sock)
        try:
            yield sock.getsockname()[1], server
        finally:
            await server.stop(1)
            assert server.num_connections == 0


class Client:
    """Raw bytes out; answers in, as h11 reads them."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.rest = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, port, **options):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, data, method="GET"):
        self.writer.write(data)
        return await self.answer(method)

    async def answer(self, method="GET"):
        """The next answer: status, headers, body."""
        reading = Reading(method)
        reading.feed(self.rest)
        while not reading.is_whole:
            data = await self.reader.read(65_536)
            reading.feed(data)
            if not data and not reading.is_whole:
                raise EOFError(f"the answer ended early: {reading.body!r}")
        self.rest = reading.rest
        return reading.status, reading.headers, reading.body

    async def ended(self):
        """Whether nothing more comes."""
        with contextlib.suppress(ConnectionError):
            return self.rest == b"" and await self.reader.read() == b""
        return True


class Reading:
    """One answer, read by h11."""

    def __init__(self, method="GET"):
        self.status, self.headers, self.body, self.rest, self.is_whole = 0, {}, b"", b"", False
        self._client = h11.Connection(h11.CLIENT)
        self._client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._client.send(h11.EndOfMessage())

    def feed(self, data):
        if data or self.status:
            self._client.receive_data(data)
        while not self.is_whole:
            event = self._client.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = dict(event.headers)
                assert len(self.headers) == len(event.headers), event.headers
            elif isinstance(event, h11.Data):
                self.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.is_whole = True
                self.rest = self._client.trailing_data[0]


class Wire:
    """A connection without a socket: bytes arrive exactly as cut, and what is written is kept."""

    def __init__(self, site):
        self.out, self.is_closed, self.is_reading = b"", False, True
        self.connection = Connection(site)
        self.connection.connection_made(self)

    async def feed(self, data):
        for _ in range(2_000):
            if self.is_reading or self.is_closed:
                break
            await asyncio.sleep(0)
        else:
            raise TimeoutError("never read on")
        if not self.is_closed:
            self.connection.get_buffer(-1)[: len(data)] = data
            self.connection.buffer_updated(len(data))

    async def calm(self):
        """Until nothing runs that has been asked for."""
        for _ in range(2_000):
            if self.is_closed or not (self.connection._current or self.connection._waiting):
                return
            await asyncio.sleep(0)
        raise TimeoutError("an answer never ended")

    def lose(self):
        if not self.is_closed:
            self.connection.eof_received()
            self.close()

    # a transport

    def write(self, data):
        assert not self.is_closed
        self.out += data

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            self.connection.connection_lost(None)

    abort = close

    def is_closing(self):
        return self.is_closed

    def can_write_eof(self):
        return True

    def write_eof(self):
        pass

    def pause_reading(self):
        assert self.is_reading
        self.is_reading = False

    def resume_reading(self):
        assert not self.is_reading
        self.is_reading = True

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name):
        return ("127.0.0.1", 1)


def site(app=app, routes=ROUTES, limits=None, notes=None):
    return Site(app, routes, limits or Limits(), (notes if notes is not None else []).append)


@pytest.fixture(scope="session")
def http():
    """All of the above, for tests that cannot import this file."""
    import types

    names = ("serving", "Client", "Reading", "Wire", "site", "echo", "app", "ROUTES", "ANY")
    return types.SimpleNamespace(**{name: globals()[name] for name in names})
