"""Worker processes behind one event loop: asks go out, parts come back, and who dies is replaced.

The pool carries and decides nothing about order, batch or variant: whoever schedules asks for `room`, and is told when there
is some. An ask goes to a ready worker (`Chooser` says which), `window` at most each, so that little is lost with a worker; the
rest waits here. What a dead worker had not begun to answer is asked once more, of another one if there is one; a
stream that had begun ends with an error, since nobody can go on in the midst of it. One that fails twice is not tried again: a
request that kills workers kills two. A deadline that passes is answered here, cancelled in the worker, and nothing of it stays.

Callbacks, not futures, on the hot path: a future a request costs 3 µs, and `answer` and `stream` make them for who wants them.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from gyral.engine import ranks
from gyral.errors import ServeError
from gyral.serve.carrier import Carrier, Flight, Load, OnPart, State
from gyral.serve.choosing import Chooser
from gyral.serve.deadlines import Deadlines
from gyral.serve.engine import Ask, Part, failed
from gyral.serve.frames import Answered, Asked, FromWorker
from gyral.serve.job import Job, in_set
from gyral.serve.keep import Kept
from gyral.serve.starting import Starter
from gyral.serve.versions import Versions

MAX_TRIES = 2
MAX_PATH = 4_096


class Full(ServeError):
    """More asks wait than the pool takes: the client should come back later."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Of a pool.

    Attributes
    ----------
    window : asks sent to one worker and not answered; two batches keep it busy.
    max_waiting : asks that wait here for a worker with room; more are refused.
    hang_s : without a word a worker is killed; longer than the longest step of its engine.
    start_s, load_s : for a worker to be ready, and for a version to be loaded.
    drain_s : for asks in flight when a worker is to end.
    """

    workers: int = 1
    window: int = 128
    max_waiting: int = 4_096
    hang_s: float = 30.0
    start_s: float = 120.0
    load_s: float = 600.0
    drain_s: float = 30.0


class Pool:
    """Workers of one model.

    Parameters
    ----------
    job : what each runs.
    folder : for their logs; without one, a temporary folder. `version.json` in it outlives the pool.
    start, host : where they are placed, as `Starter` takes it.
    on_room : called when a worker can take more, after none could.
    note : told of deaths and starts.
    """

    def __init__(
        self, job: Job, settings: Settings | None = None, folder: Path | None = None, *, start: ranks.Start = ranks.start,
        host: str = "", on_room: Callable[[], None] = lambda: None, note: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.settings = settings = settings or Settings()
        self._job, self._note, self._on_room = job, note, on_room
        self._loop = asyncio.get_running_loop()
        self._is_own = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="gyral-workers-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._kept: list[Kept] = []
        self._chooser = Chooser(lambda: self._kept, settings.window)
        path = None if self._is_own else self._folder / "version.json"
        self.versions = Versions(job.version, self._ready, path, settings.load_s)
        self._starter = Starter(self._folder, start, host)
        self._flights: dict[int, Flight] = {}
        self._waiting: deque[Flight] = deque()
        self._deadlines = Deadlines(self._flights, self._late)
        self._next = 0
        self._had_room = self._is_closing = False

    async def start(self) -> None:
        """Start the workers; returns once each has been tried and one is ready.

        Raises
        ------
        ServeError : none of them is; the pool is closed.
        """
        try:
            await self.resize(self.settings.workers)
        except BaseException:
            await self.close(0.0)
            raise

    async def resize(self, workers: int) -> None:
        """Start more of them, or drain the last ones; what they are asked is answered.

        Raises
        ------
        ServeError : no worker is ready after that.
        """
        new = [self._place() for _ in range(len(self._kept), workers)]
        going, self._kept = self._kept[workers:], [*self._kept[:workers], *new]
        await asyncio.gather(*(each.tried.wait() for each in new), *(each.drain(self.settings.drain_s) for each in going))
        if self._kept and not self._ready():
            errors = [each.error for each in self._kept if each.error is not None]
            raise errors[0] if errors else ServeError("no worker is ready", where=str(self._folder))

    async def drain(self, number: int) -> None:
        """Let one finish and start another in its place, without a request lost."""
        at = next((at for at, each in enumerate(self._kept) if each.number == number), -1)
        if at < 0:
            raise ServeError(f"there is no worker {number}", hint=f"there are {[each.number for each in self._kept]}")
        old = self._kept[at]
        new = self._place()
        await new.tried.wait()
        self._kept[at] = new
        await old.drain(self.settings.drain_s)

    async def swap(self, version: str) -> None:
        """Have another version answer; as `Versions.swap`."""
        await self.versions.swap(version)
        self._note(f"serve    {' '.join(in_set(version).values())} answers")

    async def roll_back(self) -> None:
        """Have the version before answer again; as `Versions.roll_back`."""
        await self.versions.roll_back()
        self._note(f"serve    {' '.join(in_set(self.versions.current).values())} answers again")

    async def close(self, drain_s: float | None = None) -> None:
        """Answer what is in flight, then end all workers; may be called twice."""
        self._is_closing = True
        timeout_s = self.settings.drain_s if drain_s is None else drain_s
        end = time.monotonic() + timeout_s
        while self._waiting and self._ready() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        kept, self._kept = self._kept, []
        await asyncio.gather(*(each.drain(max(0.0, end - time.monotonic())) for each in kept))
        for id in list(self._flights):
            self._end(id, failed(id, 503, "the server is being stopped", hint="ask again"))
        self._waiting.clear()
        self._starter.close()
        self._deadlines.close()
        if self._is_own:
            shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, ask: Ask, on_part: OnPart) -> None:
        """Have an ask answered; `on_part` is called on the loop, for the last time with a part that is the last.

        Raises
        ------
        Full : too many wait; or the pool is being closed.
        """
        if self._is_closing:
            raise Full("the server is being stopped", hint="ask again")
        if not 0 < len(ask.path) <= MAX_PATH or ask.id in self._flights:
            raise ServeError(f"the pool does not take ask {ask.id}", why="its path is too long, or its id is in use")
        if len(self._waiting) >= self.settings.max_waiting:
            self._waiting = deque(each for each in self._waiting if self._flights.get(each.ask.id) is each)
            if len(self._waiting) >= self.settings.max_waiting:
                raise Full("the workers are busy", why=f"{len(self._waiting):,} asks wait", hint="ask again in a moment")
        flight = self._begin(ask, on_part)
        carrier = None if self._waiting else self._chooser.choose(flight)
        if carrier is None:
            self._had_room = False
            self._waiting.append(flight)
        else:
            self._send(flight, carrier)

    def ask_together(self, asks: Sequence[Ask], on_part: OnPart) -> bool:
        """Have asks answered as one batch by a worker that has nothing to do; False when there is none."""
        carrier = self._choose_idle()
        if carrier is None:
            return False
        for ask in asks:
            self._send(self._begin(ask, on_part), carrier)
        self._had_room = False
        return True

    def cancel(self, id: int) -> None:
        """Nobody waits for it any more; no part of it follows."""
        flight = self._flights.pop(id, None)
        if flight is not None and flight.carrier is not None:
            flight.carrier.cancel(id)

    async def answer(self, ask: Ask) -> Part:
        """The last part of an ask; cancelled with the caller."""
        done: asyncio.Future[Part] = self._loop.create_future()
        self.ask(ask, lambda part: done.set_result(part) if part.is_last and not done.done() else None)
        try:
            return await done
        finally:
            if not done.done() or done.cancelled():
                self.cancel(ask.id)

    async def stream(self, ask: Ask, max_parts: int = 1_024) -> AsyncIterator[Part]:
        """The parts of an ask; a caller that is `max_parts` behind gets an error, and one that leaves cancels it."""
        parts: asyncio.Queue[Part] = asyncio.Queue()

        def on_part(part: Part) -> None:
            if parts.qsize() >= max_parts:
                self.cancel(ask.id)
                part = failed(ask.id, 503, "the client reads too slowly", why=f"{max_parts:,} parts wait for it")
            parts.put_nowait(part)

        self.ask(ask, on_part)
        try:
            while not (part := await parts.get()).is_last:
                yield part
            yield part
        finally:
            self.cancel(ask.id)

    @property
    def room(self) -> int:
        """Asks that workers would take now."""
        if self._waiting:
            return 0
        window = self.settings.window
        return sum(window - len(each.flights) for each in self._ready() if each.has_room(window))

    @property
    def is_idle(self) -> bool:
        """Whether a worker has nothing to do."""
        return self._choose_idle() is not None

    @property
    def num_ready(self) -> int:
        """Workers that can be asked."""
        return len(self._ready())

    @property
    def in_flight(self) -> int:
        """Asks that have no last part yet."""
        return len(self._flights)

    def loads(self) -> list[Load]:
        """How each worker is."""
        loads = []
        for kept in self._kept:
            at = kept.carrier
            if at is None:
                loads.append(Load(kept.number, State.DOWN.value, 0, "", [], kept.deaths, 0, 0.0, 0.0, 0.0))
                continue
            of = (len(at.flights), at.using, sorted(at.versions), kept.deaths, at.resident_bytes)
            loads.append(Load(kept.number, at.state.value, *of, at.silent_s, at.busy, at.step_s))
        return loads

    def _place(self) -> Kept:
        self._next += 1
        return Kept(
            self._next - 1, self._starter, lambda: msgspec.structs.replace(self._job, version=self.versions.current),
            self._heard, self._lost, self._joined, self._note,
            start_s=self.settings.start_s, hang_s=self.settings.hang_s,
        )  # fmt: skip

    def _ready(self) -> list[Carrier]:
        return [each.carrier for each in self._kept if each.carrier is not None and each.carrier.state is State.READY]

    async def _joined(self, carrier: Carrier) -> None:
        await self.versions.join(carrier)
        self._fill()

    def _begin(self, ask: Ask, on_part: OnPart) -> Flight:
        until = math.inf
        if ask.deadline_s != math.inf:
            until = time.monotonic() + ask.deadline_s
            self._deadlines.add(until, ask.id)
        flight = self._flights[ask.id] = Flight(ask, on_part, until)
        return flight

    def _choose_idle(self) -> Carrier | None:
        """One that has nothing to do, and rather one that loads no version."""
        if self._waiting or self._is_closing:
            return None
        idle = [each for each in self._ready() if not each.flights]
        return min(idle, key=lambda each: each.num_loading, default=None)

    def _send(self, flight: Flight, carrier: Carrier) -> None:
        ask = flight.ask
        flight.carrier = carrier
        flight.tries += 1
        carrier.flights[ask.id] = flight
        left_s = None if flight.until == math.inf else flight.until - time.monotonic()
        carrier.say(Asked(ask.id, ask.path, ask.body, left_s, ask.version, ask.is_stream, ask.variant))

    def _fill(self) -> None:
        """Send what waits while there is room, then tell whoever schedules."""
        while self._waiting:
            flight = self._waiting[0]
            if self._flights.get(flight.ask.id) is not flight:
                self._waiting.popleft()
                continue
            carrier = self._chooser.choose(flight)
            if carrier is None:
                return
            self._waiting.popleft()
            self._send(flight, carrier)
        if not self._had_room and self.room:
            self._had_room = True
            self._on_room()

    def _heard(self, carrier: Carrier, said: Sequence[FromWorker]) -> None:
        flights = carrier.flights
        has_other = False
        for each in said:
            if not isinstance(each, Answered):
                has_other = True
                continue
            flight = flights.get(each.id)
            if flight is None:
                continue  # cancelled meanwhile
            if each.props.pop("elsewhere", False) and self._hand_over(flight, carrier):
                continue
            flight.has_begun = flight.has_begun or not each.props.get("opening")
            if each.is_last:
                del flights[each.id]
                self._flights.pop(each.id, None)
            each.props["version"], each.props["worker"] = each.version, carrier.number
            self._tell(flight, Part(each.id, each.status, each.body, each.is_last, each.props))
        if has_other:
            self.versions.heard(carrier, said)
        if self._waiting or not self._had_room:
            self._fill()

    def _hand_over(self, flight: Flight, carrier: Carrier) -> bool:
        """Have another worker answer, once, what one has no time for; it may refuse it as well, and that is the answer then."""
        if flight.is_handed_over or flight.has_begun or self._is_closing:
            return False
        before, flight.avoid = flight.avoid, carrier.number
        other = self._chooser.choose(flight)
        if other is None or other is carrier or (flight.ask.version and flight.ask.version not in other.versions):
            flight.avoid = before
            return False
        del carrier.flights[flight.ask.id]
        flight.is_handed_over = True
        flight.tries -= 1  # of deaths
        self._send(flight, other)
        return True

    def _lost(self, carrier: Carrier) -> None:
        """Ask others what it had not begun to answer."""
        carrier.close()
        self.versions.lost(carrier)
        flights, carrier.flights = carrier.flights, {}
        again = []
        for id, flight in flights.items():
            flight.carrier = None
            if flight.has_begun:
                self._end(id, failed(id, 502, "the worker ended in the midst of the answer", hint="ask again"))
            elif flight.tries >= MAX_TRIES:
                self._end(id, failed(id, 502, f"{flight.tries} workers ended while they had this request", hint="not again"))
            else:
                flight.avoid = carrier.number
                again.append(flight)
        self._waiting.extendleft(reversed(again))
        self._fill()

    def _end(self, id: int, part: Part) -> None:
        flight = self._flights.pop(id, None)
        if flight is not None:
            if flight.carrier is not None:
                flight.carrier.cancel(id)
            self._tell(flight, part)

    def _tell(self, flight: Flight, part: Part) -> None:
        try:
            flight.on_part(part)
        except Exception as error:  # one caller's fault, not the others'
            self._note(f"serve    a part was not taken: {type(error).__name__}: {error}")

    def _late(self, id: int) -> None:
        self._end(id, failed(id, 504, "the deadline passed", hint="more time, or fewer asks at once"))
