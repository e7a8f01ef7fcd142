"""Connections that begin with TLS: how many may be at it, and how long.

Until its handshake is over nothing else knows of a connection, and each holds 50 to 95 KiB and a file. So they are accepted
here and counted. Who is at it for longer than `PATIENT_S` makes room for the next when all places are taken; where nobody is,
the next waits in the backlog: a thousand devices that come back at once are slow, not hostile. What a handshake that failed
leaves are cycles of 30 KiB, which the garbage collector would come for after thousands of them, so it is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl

from gyral.serve.http1.connection import Connection
from gyral.serve.http1.site import Site

MAX_AT_ONCE, PATIENT_S = 1_024, 1.0
TIMEOUT_S = 10.0
COLLECT_EVERY = 256
"""Handshakes that failed, before what they left is collected."""
AGAIN_S = 0.05


class Handshakes:
    """Accepts on one socket.

    Parameters
    ----------
    tls : of the server.
    sock : listens; it is closed with `close`.
    """

    def __init__(self, site: Site, tls: ssl.SSLContext, sock: socket.socket) -> None:
        self._site, self._tls, self._sock = site, tls, sock
        self._most = min(MAX_AT_ONCE, site.limits.max_connections)
        self._begun: dict[asyncio.Task[None], float] = {}
        self._failed = 0
        self._accepting = site.loop.create_task(self._accept())

    def __len__(self) -> int:
        return len(self._begun)

    def close(self) -> None:
        """Accept no more, and end those that are at it."""
        self._accepting.add_done_callback(lambda _: self._sock.close())
        self._accepting.cancel()
        for each in list(self._begun):
            each.cancel()

    async def _accept(self) -> None:
        loop = self._site.loop
        while True:
            await self._place()
            try:
                accepted, _ = await loop.sock_accept(self._sock)
            except OSError:  # no file is left, or the client has gone
                await asyncio.sleep(AGAIN_S)
                continue
            task = loop.create_task(self._shake(accepted))
            self._begun[task] = loop.time()
            task.add_done_callback(self._ended)

    async def _place(self) -> None:
        """Until there is room for one more."""
        while len(self._begun) >= self._most:
            oldest, begun = next(iter(self._begun.items()))
            if self._site.loop.time() - begun >= PATIENT_S:
                del self._begun[oldest]
                oldest.cancel()
            else:
                await asyncio.sleep(AGAIN_S)

    async def _shake(self, accepted: socket.socket) -> None:
        site = self._site
        times = {"ssl_handshake_timeout": TIMEOUT_S, "ssl_shutdown_timeout": site.limits.linger_s}
        await site.loop.connect_accepted_socket(lambda: Connection(site), accepted, ssl=self._tls, **times)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._begun.pop(task, None)
        with contextlib.suppress(asyncio.CancelledError):
            if task.exception() is None:
                return
        self._failed += 1
        if self._failed % COLLECT_EVERY == 0:
            gc.collect()
