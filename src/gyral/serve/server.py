"""Runs a server's application on gyral's own HTTP server inside this process, and stops it without dropping a request.

One process and one event loop own the models: a swap is one reference. The port is taken before anything is loaded, so two
servers that start together fight for it at once, and a client that comes early waits instead of being refused.

granian, which ran here before, hands every request from its own thread to this one, and both want the interpreter. CPU a
request (medians of 3 on a busy machine: read the ratios): JSON echo 67 µs against 32 by a fast handler and 41 by ASGI here;
a recommendation 100 against 71 and 88. As plain ASGI gyral's server costs what uvicorn's does (44 and 93); what is won is won
by fast handlers, and by limits in time and size that granian does not have.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple

from gyral.config.rerank import Rerank
from gyral.config.sections import Decode, Serve
from gyral.errors import MissingExtra
from gyral.http import AsgiApp
from gyral.http.operations import Documented, Operation
from gyral.lake.table import Lake
from gyral.log.base import EventLog
from gyral.model import card as cards
from gyral.model.tiers import tiers
from gyral.serve.app import App, Holds
from gyral.serve.bundles.app import Bundles
from gyral.serve.described import asked, beside
from gyral.serve.entrance import Entrance
from gyral.serve.feedback import Impressions
from gyral.serve.following import CANARY
from gyral.serve.http1.request import Route
from gyral.serve.openai.app import OpenAi
from gyral.serve.openai.engines import Engines
from gyral.serve.openai.opening import copied
from gyral.serve.openai.runner import Asks, Runners
from gyral.serve.opening import opened
from gyral.serve.packaged import Packaged, is_source, packaged
from gyral.serve.recommend.pipeline import dressing
from gyral.serve.slots import Slots
from gyral.serve.stats import Stats

STOP_TIMEOUT_S = 3.0
"""How long a stop waits for requests in flight; a client that sent half of one would hold the server forever."""
SWITCH_INTERVAL_S = 0.0005
"""How long the thread that encodes impressions may hold the interpreter while requests wait; Python's default is 5 ms."""


Record = Callable[[dict[str, Any]], None]


class Opened(NamedTuple):
    """What a server answers with: an application, and path → fast handler; all other paths are the application's.

    `stats`: what it did, where that is recorded.
    """

    app: AsgiApp
    hot: Mapping[str, Route]
    stats: Stats | None = None


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
    decode: Decode | None = None,
    mounts: Mapping[str, AsgiApp] | None = None,
    described: Sequence[Operation] = (),
    on_ready: Callable[[str], None] | None = None,
    note: Callable[[str], None] = print,
    folder: Path | None = None,
    on: str = "local",
    record: Record | None = None,
    entrance: Entrance | None = None,
    log: EventLog | None = None,
) -> Served:
    """Serve a model until SIGINT or SIGTERM; says which, and how many answers were logged.

    Parameters
    ----------
    lake : answers go to its log, or to `log`, which is closed at the end.
    model : `name` follows its newest version, `name@n` is pinned; or a package or a path that holds a language model.
    rerank : rules between a recommender's scores and its answers.
    decode : how language models write.
    mounts : other applications by path prefix, for example the pages at `/`.
    described : what they answer to programs, for `/openapi.json`.
    on_ready : called with the address once requests are answered.
    folder, on : of the logs of workers, and where those are placed: here, or by Ray.
    record : takes a line of what was done, every few seconds.
    entrance : what stands before everything that is asked.

    Raises
    ------
    NotFound : there is no such model.  ServeError : the port is taken.
    """
    with _listening(config.host, config.port) as sock:
        impressions = Impressions(lake, note, log) if config.impressions else None
        try:
            rules, others = rerank or Rerank(), mounts or {}
            if not config.workers:
                opening = _inline(root, model, config, rules, decode or Decode(), impressions, others, described, note)
            elif is_source(model) or cards.read_card(cards.find(root, model)).family == "lm":
                opening = _copies(root, model, config, decode or Decode(), impressions, others, described, note, folder, on)
            else:
                opening = _workers(root, model, config, rules, impressions, others, described, note, folder, on)
            was_interrupted = run_app(opening, sock, on_ready, record, entrance)
        finally:
            if impressions is not None:
                impressions.close()
    counts = (impressions.appended, impressions.dropped) if impressions is not None else (0, 0)
    return Served(was_interrupted, {"impressions": counts[0], "impressions_lost": counts[1]})


def serve_app(
    app: AsgiApp, host: str, port: int, on_ready: Callable[[str], None] | None = None, entrance: Entrance | None = None
) -> bool:
    """Serve any ASGI application until SIGINT (True) or SIGTERM (False)."""
    with _listening(host, port) as sock:
        return run_app(_opened(app), sock, on_ready, entrance=entrance)


@contextlib.asynccontextmanager
async def _opened(app: AsgiApp) -> AsyncIterator[Opened]:
    yield Opened(app, {})


@contextlib.asynccontextmanager
async def _inline(
    root: Path, model: str, config: Serve, rerank: Rerank, decode: Decode, impressions: Impressions | None,
    mounts: Mapping[str, AsgiApp], described: Sequence[Operation], note: Callable[[str], None],
) -> AsyncIterator[Opened]:  # fmt: skip
    """The models in this process."""
    engines, rules = Engines(decode, root, note), dressing(rerank, root)
    slots: Slots | Packaged
    if is_source(model):
        slots = packaged(model, note)
        engines.make(slots.default)
    else:
        slots = Slots(root, model, note, lambda loaded: engines.make(rules(loaded) if rules is not None else loaded))
    try:
        runners = Runners(engines, note)
        openai = OpenAi(slots, config.max_body_bytes, runners, impressions, alike=config.alike)
        try:
            with _answering(root, model, config, slots, openai, None, impressions, mounts, described, note) as app:
                yield Opened(app, app.hot(), Stats(app.metrics))
        finally:
            runners.close()
    finally:
        slots.close()


@contextlib.asynccontextmanager
async def _copies(
    root: Path, model: str, config: Serve, decode: Decode, impressions: Impressions | None, mounts: Mapping[str, AsgiApp],
    described: Sequence[Operation], note: Callable[[str], None], folder: Path | None, on: str,
) -> AsyncIterator[Opened]:  # fmt: skip
    """Language models in processes of their own."""
    async with copied(root, model, config, decode, note, folder=folder, on=on) as copies:
        openai = OpenAi(copies, config.max_body_bytes, copies, impressions, config.deadline_ms / 1e3 or math.inf, config.alike)
        with _answering(root, model, config, copies, openai, copies, impressions, mounts, described, note) as app:
            app.metrics.gauges = copies.gauges
            yield Opened(app, {}, Stats(app.metrics, copies.state))


@contextlib.contextmanager
def _answering(
    root: Path, model: str, config: Serve, slots: Holds, openai: OpenAi, asks: Asks | None, impressions: Impressions | None,
    mounts: Mapping[str, AsgiApp], described: Sequence[Operation], note: Callable[[str], None],
) -> Iterator[App]:  # fmt: skip
    """The application over models, with what describes it and what devices download."""
    has_bundles = config.bundles and not is_source(model)
    bundles = Bundles(root, slots.names, tiers(config.tiers), lambda key: app.guard.check(key))
    told = Documented("gyral serve", lambda: [*asked(slots.default), *beside(has_bundles), *described])
    further = {**(bundles.mounts if has_bundles else {}), **told.mounts}
    app = App(slots, config, impressions, {**mounts, **further}, note, openai.mounts, asks)
    try:
        yield app
    finally:
        bundles.close()
        app.close()


@contextlib.asynccontextmanager
async def _workers(
    root: Path, model: str, config: Serve, rerank: Rerank, impressions: Impressions | None, mounts: Mapping[str, AsgiApp],
    described: Sequence[Operation], note: Callable[[str], None], folder: Path | None, on: str,
) -> AsyncIterator[Opened]:  # fmt: skip
    """The models in processes of their own."""

    def had() -> dict[str, str]:
        """What devices may have: a model on trial they may not."""
        return {slot: each for slot, each in front.slots().items() if slot != CANARY}

    with contextlib.closing(Bundles(root, had, tiers(config.tiers), lambda key: front.guard.check(key))) as bundles:
        told = Documented("gyral serve", lambda: [*beside(config.bundles), *described], lambda: front.document)
        further = {**(bundles.mounts if config.bundles else {}), **told.mounts}
        async with opened(root, model, config, rerank, impressions, {**mounts, **further}, note, folder=folder, on=on) as front:
            yield Opened(front, front.hot(), Stats(front.metrics, front.state))


def _listening(host: str, port: int) -> contextlib.closing[socket.socket]:
    try:
        from gyral.serve.http1.server import listen
    except ImportError:
        raise MissingExtra("httptools", "serve", "serving") from None
    return contextlib.closing(listen(host, port))


def run_app(
    opening: AbstractAsyncContextManager[Opened], sock: socket.socket, on_ready: Callable[[str], None] | None,
    record: Record | None = None, entrance: Entrance | None = None,
) -> bool:  # fmt: skip
    """Run on a socket that listens until SIGINT (True) or SIGTERM (False); the address is told once requests are answered."""
    from gyral.serve.http1.server import new_loop

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_run(opening, sock, on_ready, record, entrance or Entrance()))


async def _run(
    opening: AbstractAsyncContextManager[Opened], sock: socket.socket, on_ready: Callable[[str], None] | None,
    record: Record | None, entrance: Entrance,
) -> bool:  # fmt: skip
    async with opening as opened:
        gc.collect()
        gc.freeze()  # what is loaded by now stays: a full collection of it stops requests for 50 ms
        if record is None or opened.stats is None:
            return await _serve(opened, sock, on_ready, entrance)
        recording = asyncio.create_task(opened.stats.keep(record))
        try:
            return await _serve(opened, sock, on_ready, entrance)
        finally:
            recording.cancel()
            record(opened.stats.line())


async def _serve(opened: Opened, sock: socket.socket, on_ready: Callable[[str], None] | None, entrance: Entrance) -> bool:
    from gyral.serve.http1.server import Server

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    received: list[int] = []

    def stop_by(which: int) -> None:
        received.append(which)
        stopping.set()

    for which in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, ValueError):  # not in the main thread, or not on this system
            loop.add_signal_handler(which, stop_by, which)
    host, port = sock.getsockname()[:2]
    server = Server(entrance.before(opened.app), opened.hot, tls=entrance.tls, origins=entrance.origins)
    scheme = "http" if entrance.tls is None else "https"
    try:
        await server.start(sock)
        if on_ready is not None:
            on_ready(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
        await stopping.wait()
    finally:
        await server.stop(STOP_TIMEOUT_S)
    return signal.SIGINT in received
