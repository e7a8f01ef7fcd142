"""Listening, draining, running: one server on one event loop.

A stop closes the listening socket first, then the connections that ask for nothing, answers what was asked with
`connection: close`, and cuts off what is left when the time is up. `uvloop` is taken when it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Callable, Mapping

import msgspec

from gyral.errors import ServeError
from gyral.http import AsgiApp
from gyral.http.origins import Origins
from gyral.serve.http1.asgi import Lifespan
from gyral.serve.http1.connection import Connection
from gyral.serve.http1.handshakes import Handshakes
from gyral.serve.http1.limits import Limits
from gyral.serve.http1.request import Route
from gyral.serve.http1.site import Site

BACKLOG = 2048
LIFESPAN_TIMEOUT_S = 20.0


class Server:
    """A server of fast routes, of an application, or of both.

    Parameters
    ----------
    app : answers every path that has no route.
    routes : path → fast handler.
    tls : speaks HTTPS with this context.
    note : told when a handler or the application raises; by default the logger `gyral.http1` is.
    origins : which web pages may ask; None: nobody looks.
    """

    def __init__(
        self,
        app: AsgiApp | None = None,
        routes: Mapping[str, Route] | None = None,
        *,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        note: Callable[[str], None] | None = None,
        origins: Origins | None = None,
    ) -> None:
        self._origins = origins
        self._app = app
        self._routes = routes or {}
        self._limits = limits or Limits()
        self._tls = tls
        self._note = note
        self._servers: list[asyncio.Server | Handshakes] = []
        self._lifespan: Lifespan | None = None
        self._site: Site | None = None

    @property
    def num_connections(self) -> int:
        """Connections that are open."""
        return len(self._site.connections) if self._site is not None else 0

    async def start(self, *listening: socket.socket) -> None:
        """Start the application, then accept on sockets that listen already.

        Raises
        ------
        ServeError : the application did not start.
        """
        scheme = "https" if self._tls is not None else "http"
        limits = msgspec.structs.replace(self._limits, max_connections=min(self._limits.max_connections, more_files() * 3 // 4))
        site = Site(self._app, self._routes, limits, self._note, scheme, self._origins)
        self._site = site
        backlog = min(BACKLOG, 1 + limits.max_connections // 16)  # asyncio accepts as many before it looks at one
        if self._app is not None:
            self._lifespan = Lifespan(self._app, site.state)
            await self._lifespan.start(LIFESPAN_TIMEOUT_S)
        for sock in listening:
            if self._tls is not None:
                self._servers.append(Handshakes(site, self._tls, sock))
            else:
                server = await site.loop.create_server(lambda: Connection(site), sock=sock, backlog=backlog)
                self._servers.append(server)
        site.tick()

    async def stop(self, timeout_s: float) -> int:
        """Stop gracefully; how many connections had to be cut off after that time. May be called twice."""
        site, self._site = self._site, None
        for server in self._servers:
            server.close()
        self._servers.clear()
        cut = 0
        try:
            if site is not None:
                cut = await site.drain(timeout_s)
        finally:
            if site is not None:
                site.close()
            lifespan, self._lifespan = self._lifespan, None
            if lifespan is not None:
                await lifespan.stop(LIFESPAN_TIMEOUT_S)
        return cut


def listen(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """A socket that listens; `port` 0 takes a free one.

    Parameters
    ----------
    is_shared : several processes may listen on the port, and the kernel deals connections out (`SO_REUSEPORT`).

    Raises
    ------
    ServeError : the port is taken, or the address is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        hint = "take another port, or 0 for a free one"
        raise ServeError(f"cannot listen on {host}:{port}", why=error.strerror or str(error), hint=hint) from None
    sock.setblocking(False)
    return sock


def new_loop() -> asyncio.AbstractEventLoop:
    """The fastest event loop there is here."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def more_files() -> int:
    """Have as many open files as may be, and tell how many. Each connection is one; most systems allow 1,024 unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
