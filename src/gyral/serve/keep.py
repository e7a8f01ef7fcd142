"""Keeps one worker alive: starts it, waits until it is ready, and starts it again when it dies or hangs, after a while.

A death within `YOUNG_S` of being ready doubles the wait before the next start (from 0.1 s to 5 s), so a worker that cannot
live costs little; one that had served for long comes back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from gyral.engine import ranks
from gyral.engine.links import LinkLost
from gyral.errors import GyralError, ServeError
from gyral.serve.carrier import Carrier, State
from gyral.serve.frames import Broken, Drain, FromWorker, Leaving, Loaded, Pong
from gyral.serve.job import Job
from gyral.serve.starting import Running, Starter, end_process

FIRST_WAIT_S = 0.1
MAX_WAIT_S = 5.0
YOUNG_S = 10.0
BEAT_S = 0.5
GRACE_S, SHORT_GRACE_S = 5.0, 0.2
"""Between the end of its link and its own, asked for or not."""


class Kept:
    """One worker's place, through all its deaths.

    Parameters
    ----------
    job : asked for before each start, since the version may be another by then.
    on_heard, on_lost : as `Carrier`.
    on_ready : awaited before the worker is asked anything; it sets the carrier's state.
    """

    def __init__(
        self, number: int, starter: Starter, job: Callable[[], Job], on_heard: Callable[[Carrier, Sequence[FromWorker]], None],
        on_lost: Callable[[Carrier], None], on_ready: Callable[[Carrier], Awaitable[None]], note: Callable[[str], None], *,
        start_s: float, hang_s: float,
    ) -> None:  # fmt: skip
        self.number = number
        self.carrier: Carrier | None = None
        self.deaths = 0
        self.is_ending = False
        self.error: GyralError | None = None
        self.tried = asyncio.Event()
        self._starter, self._job, self._note = starter, job, note
        self._on_heard, self._on_lost, self._on_ready = on_heard, on_lost, on_ready
        self._start_s, self._hang_s = start_s, hang_s
        self._young = 0
        self._end = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def drain(self, timeout_s: float) -> None:
        """Ask it nothing more, let it answer, and end it; after `timeout_s` it is killed."""
        self.is_ending = True
        self._end.set()
        carrier = self.carrier
        if carrier is not None and carrier.state is State.READY:
            carrier.state = State.DRAINING
            carrier.say(Drain())
        elif carrier is None or carrier.state is not State.DRAINING:
            timeout_s = 0.0
        done, _ = await asyncio.wait([self._task], timeout=timeout_s)
        if not done:
            if carrier is not None and carrier.state is not State.DOWN:
                carrier.close()
                self._on_lost(carrier)
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        """Start it, and start it again, until it is to end."""
        while not self.is_ending:
            try:
                await self._live()
                self.error = None
            except GyralError as error:
                self.error = error
            self.tried.set()
            if self.is_ending:
                return
            self.deaths += 1
            wait_s = min(FIRST_WAIT_S * 2**self._young, MAX_WAIT_S)
            self._young += 1
            told = f": {self.error}" if self.error is not None else ""
            self._note(f"serve    worker {self.number} is started again in {wait_s:g} s (death {self.deaths}){told}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), wait_s)

    async def _live(self) -> None:
        """One life of it.

        Raises
        ------
        ServeError : it could not be started, or how it died.
        """
        job = msgspec.structs.replace(self._job(), number=self.number)
        running = await self._starter.start(job, self._start_s)
        life = _Life()

        def on_lost(carrier: Carrier, error: LinkLost) -> None:
            self._on_lost(carrier)
            if not life.lost.done():
                life.lost.set_result(error.why)

        carrier = self.carrier = Carrier(self.number, running, lambda each, said: self._heard(life, each, said), on_lost)
        began = time.monotonic()
        ready = asyncio.get_running_loop().create_task(self._readied(carrier, job.version, life))
        ready.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, also where it died before
        try:
            why = await self._watch(carrier, life.lost, ready)
        finally:
            ready.cancel()
            carrier.close()
            self.carrier = None
            grace_s = 0.0 if not life.lost.done() else GRACE_S if self.is_ending else SHORT_GRACE_S
            code = await asyncio.shield(asyncio.to_thread(end_process, running.process, grace_s))
        if time.monotonic() - began > YOUNG_S:
            self._young = 0
        if not self.is_ending:
            raise life.broken or _death(self.number, running, code, why)

    async def _watch(self, carrier: Carrier, lost: asyncio.Future[str], ready: asyncio.Task[None]) -> str:
        """Wait for its end, or until it hangs; why it is over."""
        last = time.monotonic()
        beat_s = min(BEAT_S, self._hang_s / 4)
        while True:
            await asyncio.wait([lost], timeout=beat_s)
            now = time.monotonic()
            was_late, last = now - last > 4 * beat_s, now
            if lost.done():
                return lost.result()
            if ready.done() and (error := ready.exception()) is not None:
                self._on_lost(carrier)
                raise error
            if was_late:  # this process was stopped itself: nobody's silence means anything
                carrier.heard_at = now
            elif carrier.state is State.STARTING and now - carrier.began > self._start_s:
                self._on_lost(carrier)
                return f"it was not ready in {self._start_s:g} s"
            elif carrier.state is not State.STARTING and carrier.silent_s > self._hang_s:
                self._on_lost(carrier)
                return f"not a word for {self._hang_s:g} s, it was killed"
            if carrier.state is not State.STARTING:
                carrier.beat()

    async def _readied(self, carrier: Carrier, version: str, life: _Life) -> None:
        """Ready once its version is loaded, and whatever else has to be before it is asked."""
        either: list[asyncio.Future[Any]] = [life.loaded, life.lost]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if life.lost.done():
            return
        carrier.using = version
        await self._on_ready(carrier)
        if carrier.state is State.READY:
            self.error = None
            self.tried.set()

    def _heard(self, life: _Life, carrier: Carrier, said: Sequence[FromWorker]) -> None:
        for each in said:
            if isinstance(each, Loaded):
                carrier.versions.add(each.version)
                carrier.resident_bytes = each.resident_bytes
                if not life.loaded.done():
                    life.loaded.set_result(None)
            elif isinstance(each, Broken) and not life.loaded.done():
                life.broken = ServeError(each.what, where=each.where, why=each.why, hint=each.hint)
            elif isinstance(each, Pong):
                carrier.lives(each)
            elif isinstance(each, Leaving) and carrier.state is State.READY:
                carrier.state = State.DRAINING
                carrier.say(Drain())
        self._on_heard(carrier, said)


class _Life:
    """From one start to the death: what was heard of it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.broken: ServeError | None = None


def _death(number: int, running: Running, code: int, why: str) -> ServeError:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
    last = ranks.tail(running.log, 1)
    return ServeError(f"worker {number} {how}", why=f"{why}; its last words: {last}" if last else why, where=str(running.log))
