"""When a shard writes what changed: range by range between requests, files by a thread, so that a pull waits for neither.

A round goes over all tables and buckets; every `cut_s` one begins. The loop only gathers a part's rows (30 to 200 ns each); the
thread writes and syncs it (2 to 50 ms). A round's ranges are as many as keep a part near `PART_ROWS`. What each worker had
pushed when the round began is durable when its last part is written. A write that fails (a full disk) is tried again with the
same part: nothing is lost meanwhile, since clients keep what is not durable and are held back by their `retain_bytes`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from gyral.errors import ConflictError, GyralError
from gyral.params.held import Held
from gyral.params.keep import Keep, Part
from gyral.params.spec import BUCKETS

CUT_S = 1.0
PART_ROWS = 20_000
MAX_PARTS = 64
RETRY_S = 0.5
BUSY_S = 0.002
"""How soon a loop with nothing else to do asks again whether the thread is done."""


class Cutter:
    """Of one shard, and called by it alone.

    Parameters
    ----------
    keep : None: everything is as durable as it will be.
    received : worker → its last push that was applied; the shard's, looked at when a round begins.
    ticks : clocks of the workers.
    notes : what to write beside rows.

    Attributes
    ----------
    safe_ticks : clocks when the last finished round began.
    trouble : why the disk does not take a part.
    fatal : another process has the folder; this shard must end, and what it took in since is sent again to that one.
    """

    def __init__(
        self, keep: Keep | None, tables: Sequence[Held], cut_s: float, received: Mapping[int, int],
        ticks: Callable[[], dict[int, int]], notes: Callable[[], bytes],
    ) -> None:  # fmt: skip
        self._keep, self._tables, self.cut_s, self._notes = keep, tables, cut_s, notes
        self._received, self._ticks = received, ticks
        self.owner_epoch, self.trouble = 0, ""
        self.fatal: GyralError | None = None
        self.safe_ticks: dict[int, int] = {}
        self._durable: dict[int, int] = {}
        self._noted: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._round: Iterator[Part | None] | None = None
        self._due = time.monotonic() + cut_s
        self._urgent = False
        self._parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._busy, self._is_closed = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def durable(self, worker: int) -> int:
        """The last push of a worker that is on the disk with all before it."""
        return (self._received if self._keep is None else self._durable).get(worker, 0)

    def hurry(self) -> None:
        """Somebody waits: begin the next round at once."""
        self._urgent = True

    def lower(self, worker: int, seq: int) -> None:
        """Buckets came of which this worker's pushes are durable only up to here."""
        for marks in (self._durable, self._noted[0]):
            if worker in marks:
                marks[worker] = min(marks[worker], seq)

    def step(self, now: float) -> float | None:
        """Do one part's worth, if it is time; seconds until there may be more, None: never."""
        if self._keep is None:
            return None
        if self.fatal is not None:
            raise self.fatal
        if self._busy.is_set():
            return BUSY_S
        if self._round is None:
            if now < self._due and not self._urgent:
                return self._due - now
            self._due, self._urgent = now + self.cut_s, False
            self._noted, self._round = (dict(self._received), self._ticks()), self._parts_of_a_round()
        for part in self._round:
            if part is not None:
                self._hand(part)
                return BUSY_S
        self._round = None
        self._durable.update(self._noted[0])
        self.safe_ticks = self._noted[1]
        return 0.0 if self._urgent else max(0.0, self._due - now)

    def write_now(self, part: Part) -> None:
        """Write a part before anything else happens; it is on the disk when this returns."""
        self.settle()
        if self._keep is not None:
            self._keep.write(part)

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait for the part that is being written.

        Raises
        ------
        GyralError : it does not get written in this time.
        """
        end = time.monotonic() + timeout_s
        while self._busy.is_set():
            if self.fatal is not None:
                raise self.fatal
            if time.monotonic() > end:
                raise GyralError(f"waited {timeout_s:g} s for the disk to take a part of a shard's cut", why=self.trouble)
            time.sleep(BUSY_S)

    def close(self) -> None:
        """One last round, if the disk takes it, and the thread's end."""
        try:
            if self._keep is not None:
                self._round, self._urgent = None, True
                self.settle()
                while self._urgent or self._round is not None:
                    self.step(time.monotonic())
                    self.settle()
        finally:
            self._is_closed.set()
            self._parts.put(None)

    def _parts_of_a_round(self) -> Iterator[Part | None]:
        for held in self._tables:
            num = min(MAX_PARTS, max(1, -(-held.fresh_rows // PART_ROWS)))
            held.fresh_rows = 0
            for at in range(num):
                yield held.part(BUCKETS * at // num, BUCKETS * (at + 1) // num, self._notes(), self.owner_epoch)

    def _hand(self, part: Part) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="cuts", daemon=True)
            self._thread.start()
        self._busy.set()
        self._parts.put(part)

    def _write(self) -> None:
        while self._keep is not None and (part := self._parts.get()) is not None:
            while not self._is_closed.is_set():
                try:
                    self._keep.write(part)
                    self.trouble = ""
                    break
                except ConflictError as error:
                    self.fatal = error
                    return
                except (GyralError, OSError) as error:
                    self.trouble = str(error)
                    self._is_closed.wait(RETRY_S)
            self._busy.clear()
