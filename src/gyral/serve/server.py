"""Runs an ASGI application on granian inside this process, and stops it without dropping a request.

Embedded rather than spawned: one event loop owns the models, a swap is one reference, and start-up is one process. Model
workers of their own come when a model is too slow to answer inline.

CPU a request with a model that costs 24 µs (2 shared cores, medians of 3): granian ASGI 135 µs, RSGI 99, a bare httptools
protocol 48, because granian hands every request from its own thread to this one and both want the interpreter. ASGI stays
as long as it is fast enough: it is what mounts speak, and granian's parser is not ours to keep safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gyral.config.rerank import Rerank
from gyral.config.sections import Serve
from gyral.errors import MissingExtra, ServeError
from gyral.http import AsgiApp
from gyral.lake.table import Lake
from gyral.serve.app import App
from gyral.serve.feedback import Impressions
from gyral.serve.recommend.pipeline import dressing
from gyral.serve.slots import Slots

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 3.0
"""How long a stop waits for requests in flight; a client that sent half of one would hold the server forever."""
BACKLOG = 1024
SWITCH_INTERVAL_S = 0.0005
"""How long the thread that encodes impressions may hold the interpreter while requests wait; Python's default is 5 ms."""


class Served(NamedTuple):
    """How serving ended, and what it logged."""

    was_interrupted: bool
    counts: dict[str, int]


def serve(
    root: Path,
    model: str,
    config: Serve,
    lake: Lake,
    *,
    rerank: Rerank | None = None,
    mounts: Mapping[str, AsgiApp] | None = None,
    on_ready: Callable[[str], None] | None = None,
    note: Callable[[str], None] = print,
) -> Served:
    """Serve a model until SIGINT or SIGTERM; says which, and how many answers were logged.

    Parameters
    ----------
    lake : answers go to its log.
    model : `name` follows its newest version, `name@n` is pinned.
    rerank : rules between a recommender's scores and its answers.
    mounts : other applications by path prefix, for example the pages at `/`.
    on_ready : called with the address once requests are answered.

    Raises
    ------
    NotFound : there is no such model.  ServeError : the port is taken.
    """
    with _listening(config.host, config.port) as (address, port):
        slots = Slots(root, model, note, dressing(rerank or Rerank(), root))
        impressions = None
        try:
            impressions = Impressions(lake, note) if config.impressions else None
            app = App(slots, config, impressions, mounts, note)
            try:
                was_interrupted = run_app(app, address, port, on_ready)
            finally:
                app.close()
        finally:
            slots.close()
            if impressions is not None:
                impressions.close()
    counts = (impressions.appended, impressions.dropped) if impressions is not None else (0, 0)
    return Served(was_interrupted, {"impressions": counts[0], "impressions_lost": counts[1]})


def serve_app(app: AsgiApp, host: str, port: int, on_ready: Callable[[str], None] | None = None) -> bool:
    """Serve any ASGI application until SIGINT (True) or SIGTERM (False)."""
    with _listening(host, port) as (address, free):
        return run_app(app, address, free, on_ready)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[tuple[str, int]]:
    """The numeric address and the port to listen on, kept from other servers of gyral for as long as the block runs.

    granian listens with SO_REUSEPORT, so two that start together would both get the port and share its requests.

    Raises
    ------
    ServeError : the port is taken, or the address is not this machine's.
    """
    hint = "another port: `--port 0` takes a free one"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            port = int(probe.getsockname()[1])
    except OSError as error:
        raise ServeError(f"cannot listen on {host}:{port}", why=error.strerror or str(error), hint=hint) from None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guard:
        try:
            if sys.platform == "linux":  # a name in the kernel that goes with the process; elsewhere the probe has to do
                guard.bind(f"\0gyral-{address[0]}-{port}")
        except OSError:
            raise ServeError(f"cannot listen on {host}:{port}", why="another server just took it", hint=hint) from None
        yield str(address[0]), port


def run_app(app: AsgiApp, host: str, port: int, on_ready: Callable[[str], None] | None) -> bool:
    """Run until SIGINT (True) or SIGTERM (False); the address is told once it accepts connections."""
    try:
        from granian.constants import Interfaces
        from granian.server.embed import Server
    except ImportError:
        raise MissingExtra("granian", "serve", "serving") from None
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()  # what is loaded by now stays: a full collection of it stops requests for 50 ms
    server = Server(
        app, address=host, port=port, interface=Interfaces.ASGI, backlog=BACKLOG, websockets=False, log_enabled=False
    )
    return asyncio.run(_run(server, host, port, on_ready))


async def _run(server: Any, host: str, port: int, on_ready: Callable[[str], None] | None) -> bool:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    received: list[int] = []

    def stop_by(which: int) -> None:
        received.append(which)
        stopping.set()

    for which in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, ValueError):  # not in the main thread, or not on this system
            loop.add_signal_handler(which, stop_by, which)
    serving = loop.create_task(server.serve())
    try:
        await _wait_until_ready(host, port, serving)
        if on_ready is not None:
            shown = f"[{host}]" if ":" in host else host
            on_ready(f"http://{shown}:{port}")
        stop = loop.create_task(stopping.wait())
        await asyncio.wait([stop, serving], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
    finally:
        server.stop()
        await asyncio.wait([serving], timeout=STOP_TIMEOUT_S)
        if not serving.done():
            loop.set_exception_handler(lambda _loop, _context: None)  # granian complains of what is cut off here
            serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    return signal.SIGINT in received


async def _wait_until_ready(host: str, port: int, serving: asyncio.Task[Any]) -> None:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    while not serving.done() and asyncio.get_running_loop().time() < deadline:
        try:
            _, writer = await asyncio.open_connection(target, port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.02)
    raise ServeError(f"the server on {host}:{port} did not start", why="it stopped or was too slow", hint="see its log")
