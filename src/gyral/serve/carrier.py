"""One worker as the gateway sees it: its link on the event loop, what it has been asked, and how it is."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gyral.engine.links import LinkLost
from gyral.serve.engine import Ask, Part
from gyral.serve.frames import Cancel, FromWorker, Message, Ping, Pong, Talk
from gyral.serve.starting import Running

HIGH_BYTES = 8 << 20
"""Said to a worker and not taken: beyond this it is asked nothing more."""
OnPart = Callable[[Part], None]


class State(enum.Enum):
    """Of one worker."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


class Load(NamedTuple):
    """How one worker is.

    Attributes
    ----------
    asks : sent to it and not answered.
    version : that answers asks which name none.
    silent_s : since anything came from it, while a sign of life is due.
    busy : share of the time between its last two signs of life that it computed.
    step_s : of one step (a batch, an iteration) on average in that time.
    """

    number: int
    state: str
    asks: int
    version: str
    versions: list[str]
    deaths: int
    resident_bytes: int
    silent_s: float
    busy: float
    step_s: float


class Flight:
    """An ask on its way: who waits for it, until when (monotonic), and where it is."""

    __slots__ = ("ask", "avoid", "carrier", "has_begun", "is_handed_over", "on_part", "tries", "until")

    def __init__(self, ask: Ask, on_part: OnPart, until: float, avoid: int = -1) -> None:
        self.ask, self.on_part, self.until, self.avoid = ask, on_part, until, avoid
        self.carrier: Carrier | None = None
        self.tries, self.has_begun, self.is_handed_over = 0, False, False


class Carrier:
    """The link to one started worker.

    Parameters
    ----------
    on_heard : called with all that came at once.
    on_lost : called once, when the link ends.
    """

    def __init__(
        self, number: int, running: Running, on_heard: Callable[[Carrier, Sequence[FromWorker]], None],
        on_lost: Callable[[Carrier, LinkLost], None],
    ) -> None:  # fmt: skip
        self.number, self.running = number, running
        self.state = State.STARTING
        self.flights: dict[int, Flight] = {}
        self.versions: set[str] = set()
        self.using = ""
        self.resident_bytes = self.num_loading = 0
        self.began = self.heard_at = time.monotonic()
        self.busy = self.step_s = 0.0
        self._last = (self.began, Pong(0))
        self._talk = Talk(running.link, list[FromWorker])
        self._on_heard, self._on_lost = on_heard, on_lost
        self._loop = asyncio.get_running_loop()
        self._is_due = self._is_watched = self._is_pinged = False
        self._pings = 0
        self._file = running.link.fileno()
        self._loop.add_reader(self._file, self._read)

    def has_room(self, window: int) -> bool:
        """Whether it takes one ask more."""
        return self.state is State.READY and len(self.flights) < window and self._talk.waiting_bytes < HIGH_BYTES

    def say(self, message: Message) -> None:
        """Send with all that is said in this turn of the loop; never blocks."""
        if self.state is State.DOWN:
            return
        self._talk.say(message)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def cancel(self, id: int) -> None:
        """Nobody waits for it any more."""
        self.flights.pop(id, None)
        self.say(Cancel([id]))

    def beat(self) -> None:
        """Ask for a sign of life, unless one is due."""
        if not self._is_pinged:
            self._is_pinged = True
            self._pings += 1
            self.say(Ping(self._pings))

    def lives(self, pong: Pong) -> None:
        """A sign of life came."""
        now, (then, last) = time.monotonic(), self._last
        self._last, self.resident_bytes = (now, pong), pong.resident_bytes
        steps, step_s = pong.steps - last.steps, pong.step_s - last.step_s
        self.busy, self.step_s = min(1.0, step_s / max(now - then, 1e-9)), step_s / steps if steps else self.step_s

    @property
    def silent_s(self) -> float:
        """Since anything came, while a sign of life is due."""
        return time.monotonic() - self.heard_at if self._is_pinged else 0.0

    def close(self) -> None:
        """Hear nothing more from it; may be called twice."""
        if self.state is not State.DOWN:
            self.state = State.DOWN
            self._loop.remove_reader(self._file)
            self._loop.remove_writer(self._file)
            self.running.link.close()

    def _read(self) -> bool:
        """Whether anything came."""
        try:
            heard = self._talk.hear() if self.state is not State.DOWN else ()
        except LinkLost as error:
            self._lost(error)
            return False
        if heard:
            self.heard_at, self._is_pinged = time.monotonic(), False
            self._on_heard(self, heard)
        return bool(heard)

    def _flush(self) -> None:
        self._is_due = False
        if self.state is State.DOWN:
            return
        try:
            is_gone = self._talk.flush()
        except LinkLost as error:
            while self._read():  # it may have answered before
                continue
            self._lost(error)
            return
        if is_gone == self._is_watched:
            self._is_watched = not is_gone
            if is_gone:
                self._loop.remove_writer(self._file)
            else:
                self._loop.add_writer(self._file, self._flush)

    def _lost(self, error: LinkLost) -> None:
        if self.state is not State.DOWN:
            self.close()
            self._on_lost(self, error)
