"""A shard: some buckets of all tables, and a loop that answers one frame after the other. It knows no sockets and no clock.

Whoever runs it (a thread, a process behind TCP or shared memory, a test with a clock of its own) hands it frames of sessions
and calls `work` in between. A pull that must wait for slower workers is parked, not a thread; `work` lets it go when it may. In
`bsp` pushes wait for the end of their clock and are applied in the order of workers, as one step. Nothing is lost or applied
twice: see `gyral.params.held` for the rule, `gyral.params.cutting` for what is durable.
"""

from __future__ import annotations

import secrets
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gyral.errors import ConfigError, GyralError, InputError
from gyral.params import carried, wire
from gyral.params.consistency import JOIN_S, LEASE_S, Clocks, Fenced, Staleness, parsed
from gyral.params.cutting import CUT_S, Cutter
from gyral.params.held import Entry, Held, Moved, Rows, in_order, is_small, within
from gyral.params.keep import Keep, Kept
from gyral.params.meeting import Meetings
from gyral.params.spec import BUCKETS, TableSpec
from gyral.params.wire import Arrays, Head

RECOVER_BUCKETS = 128
"""That go into a table at once."""
IDLE_S = 0.25


class Session:
    """One client's connection, from the shard's side; a channel says how frames go."""

    worker, epoch, coding = -1, -1, "f32"
    is_known, is_closed = False, False
    expected, sent = 0, 0

    def put(self, head: Head, arrays: Arrays) -> None:
        """Take a frame along; must not block."""
        raise NotImplementedError

    def room(self, head: wire.Pull) -> np.ndarray | None:
        """Where the rows of a pull would best be, float32 [K, D]."""
        return None

    def close(self) -> None:
        """End it; what was put still goes out. May be called twice."""
        self.is_closed = True

    def say(self, make: Callable[[int], Head], arrays: Arrays = ()) -> None:
        """Number a frame and put it."""
        if not self.is_closed:
            head = make(self.sent)
            self.sent += 1
            self.put(head, arrays)


class Waiting(NamedTuple):
    """A pull that is parked."""

    session: Session
    head: wire.Pull
    keys: np.ndarray


class Moving(NamedTuple):
    """Buckets on their way to another shard: what they hold, and pushes (of a clock) that wait for its end."""

    tables: list[list[Kept]]
    pending: list[tuple[int, Entry]]


class Settings(msgspec.Struct, frozen=True):
    """What all shards of a server share."""

    sync: str = "async"
    workers: int = 1
    lease_s: float = LEASE_S
    join_s: float = JOIN_S
    cut_s: float = CUT_S


class Shard:
    """Number `number` of `num` at the start; later the map says which buckets are whose."""

    def __init__(
        self, specs: Sequence[TableSpec], number: int, num: int, settings: Settings, table: Callable[[TableSpec], Rows],
        keep: Keep | None, now: float, wall: Callable[[], float],
    ) -> None:  # fmt: skip
        self.specs, self.number, self.settings, self._wall = specs, number, settings, wall
        self.name = f"shard {number} of {num} on `{socket.gethostname()}`"
        self.birth, self.keeps = secrets.token_hex(8), keep is not None
        self.digest = wire.digest(specs)
        self.clocks = Clocks(parsed(settings.sync), settings.lease_s, settings.join_s)
        self.staleness = Staleness()
        self.map_version, self.owners = 0, even_map(num)
        self.owned = (self.owners == number).astype(np.uint8)
        self.received: dict[int, int] = {}
        self.sessions: dict[int, Session] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self._parked: list[Waiting] = []
        self.meetings = Meetings()
        self._pending: dict[int, list[Entry]] = defaultdict(list)
        self.tables = [Held(table(spec), self.owned) for spec in specs]
        self.cutter = Cutter(keep, self.tables, settings.cut_s, self.received, self.clocks.ticks, self.noted)
        if keep is not None:
            self._recover(keep, now)
        self.clocks.expect(settings.workers, now)
        self._open_clock = self.clocks.finished() or 0

    def handle(self, session: Session, head: Head, arrays: Arrays, now: float) -> None:
        """Answer a frame; one that is out of order, or of a fenced worker, ends the session. Never blocks."""
        if session.is_closed:
            return
        if head.number != session.expected:
            self.counts["gaps"] += 1
            session.close()
            return
        session.expected += 1
        try:
            if isinstance(head, wire.Hello):
                self._greet(session, head, now)
                return
            if not session.is_known:
                raise ConfigError("the first frame of a link is no hello")
            if not 0 <= getattr(head, "table", 0) < len(self.specs):
                raise InputError(f"there is no table {head.table}")  # type: ignore[attr-defined]
            if session.worker >= 0:
                member = self.clocks.check(session.worker, session.epoch, now)
                clock = getattr(head, "clock", -1)
                if isinstance(head, wire.Tick) and self.clocks.sync.is_bsp:
                    self.meetings.decide(clock - 1, head.scale, head.decided)
                if clock > member.ticked:
                    self.clocks.tick(session.worker, clock)
                    self._advance()
            self._answer(session, head, arrays)
        except GyralError as error:
            self._refuse(session, head, error)

    def _answer(self, session: Session, head: Head, arrays: Arrays) -> None:
        match head:
            case wire.Pull():
                self._pull(session, head, arrays[0])
            case wire.Push():
                self._push(session, head, arrays)
                self._done(session, head)
            case wire.Tick():
                self._done(session, head)
            case wire.Beat():
                if head.is_urgent:
                    self.cutter.hurry()
                self._done(session, head)
            case wire.Leave():
                self.clocks.leave(session.worker)
                self._done(session, head)
                self._advance()
            case wire.Ask(what="meet"):
                self.meetings.say(session, head)
                self._meet()
            case wire.Ask():
                body = msgspec.msgpack.encode(self._told(head))
                session.say(lambda number: wire.Told(number, head.number, body))

    def _greet(self, session: Session, hello: wire.Hello, now: float) -> None:
        for what, theirs, ours in (
            ("protocol", hello.protocol, wire.PROTOCOL), ("tables", hello.digest, self.digest),
            ("sync", hello.sync, self.settings.sync),
        ):  # fmt: skip
            if theirs != ours:
                hint = "start shards and workers of one version, with the same tables and the same `sync`"
                raise ConfigError(f"a worker's {what} differ from the shard's", why=f"`{theirs}`, not `{ours}`", hint=hint)
        worker, clock = hello.worker, self.clocks.finished() or 0
        if worker >= 0:
            clock = self.clocks.join(worker, hello.epoch, now).ticked
            before = self.sessions.get(worker)
            if before is not None and before is not session:
                before.close()
                self._parked = [each for each in self._parked if each.session is not before]
            self.sessions[worker] = session
        session.worker, session.epoch, session.coding, session.is_known = worker, hello.epoch, hello.coding, True
        pending = (each.seq for entries in self._pending.values() for each in entries if each.worker == worker)
        seq = max([*(held.last(worker) for held in self.tables), *pending])
        session.say(
            lambda number: wire.Welcome(
                number, self.number, self.birth, self.keeps, seq, clock, self.map_version, self.owners.tobytes()
            )
        )

    def _pull(self, session: Session, head: wire.Pull, keys_K: np.ndarray) -> None:
        waiting = Waiting(session, head, keys_K)
        if session.worker < 0 or self.clocks.may_pull(head.clock):
            self._read(waiting)
        else:
            self.counts["parked"] += 1
            self._parked.append(waiting._replace(keys=keys_K.copy()))
            why = self.clocks.behind(head.clock)
            session.say(lambda number: wire.Parked(number, head.number, why))

    def _read(self, waiting: Waiting) -> None:
        session, head, keys = waiting
        if head.map_version != self.map_version:
            self.tables[head.table].check(keys)
        rows_KD, held_K = self.tables[head.table].pull(keys, session.room(head))
        self.counts["rows_pulled"] += len(keys)
        if session.worker >= 0:
            self.staleness.pulled(session.worker, self.clocks.lag(head.clock))
        durable = self.cutter.durable(session.worker)
        session.say(lambda number: wire.Rows(number, head.number, durable, len(keys)), (rows_KD, held_K))

    def _push(self, session: Session, head: wire.Push, arrays: Arrays) -> None:
        if session.worker < 0:
            raise InputError("one that only looks pushed", hint="open the client with a worker's number")
        base = arrays[2] if head.has_base else None
        entry = Entry(head.table, session.worker, head.seq, head.at, arrays[0], arrays[1], base, head.factor)
        if not self.clocks.sync.is_bsp or head.clock < self._open_clock:  # of a clock that has ended: it comes late, or again
            held, scale = self.tables[head.table], abs(head.scale)
            now = self._wall()
            self._count(entry, held.push(entry, now) if scale == 1 else held.push_together([entry], now, scale))
            return
        if head.map_version != self.map_version:
            self.tables[head.table].check(entry.keys)
        if not is_small(entry.grads):  # the table would say so at the end of the clock, when nobody asks
            where = f"a push of `{self.specs[head.table].name}`"
            raise InputError("a gradient is not a number to learn from", where=where, why="NaN, infinite or beyond 2^57")
        if head.scale >= 0:
            self.meetings.decide(head.clock, head.scale)
        self._pending[head.clock].append(entry.copied())

    def _count(self, entry: Entry, num: int) -> None:
        self.received[entry.worker] = entry.seq
        self.counts["rows_pushed"] += num
        if num:
            self.staleness.pushed(entry.worker)

    def _done(self, session: Session, head: Head) -> None:
        durable = self.cutter.durable(session.worker)
        session.say(lambda number: wire.Done(number, head.number, durable))

    def _refuse(self, session: Session, head: Head, error: GyralError) -> None:
        kind = {Moved: "moved", Fenced: "fenced", InputError: "input"}.get(type(error), "config")
        owners = self.owners.tobytes() if kind == "moved" else b""
        session.say(
            lambda number: wire.Refused(
                number, head.number, kind, error.what, error.where or self.name, error.why, error.hint, self.map_version, owners
            )
        )
        if kind != "input":
            session.close()

    def work(self, now: float) -> float:
        """Leases, parked pulls, the next part of a cut; seconds until it wants to be called again."""
        if gone := self.clocks.expire(now):
            self.counts["expired"] += len(gone)
            for worker in gone:
                self._drop_unfinished(worker)
            self._advance()
        after = self.cutter.step(now)
        due = self.clocks.next_due()
        return max(0.0, min(IDLE_S, IDLE_S if after is None else after, IDLE_S if due is None else due - now))

    def _drop_unfinished(self, worker: int) -> None:
        """Of a worker that is gone, pushes of a clock that it did not finish: it sends them again when it comes back."""
        ticked = self.clocks.members[worker].ticked
        for clock, entries in self._pending.items():
            if clock >= ticked:
                entries[:] = [each for each in entries if each.worker != worker]

    def _advance(self) -> None:
        """Clocks went on: end those that all have finished, then let pulls go."""
        finished = self.clocks.finished()
        for clock in sorted(self._pending):
            if finished is not None and clock >= finished:
                break
            self._end(self._pending.pop(clock), self.meetings.end(clock))
        self._open_clock = max(self._open_clock, finished or 0)
        self._meet()
        parked, self._parked = self._parked, []
        for waiting in parked:
            if waiting.session.is_closed:
                continue
            if not self.clocks.may_pull(waiting.head.clock):
                self._parked.append(waiting)
                continue
            try:
                self._read(waiting)
            except GyralError as error:
                self._refuse(waiting.session, waiting.head, error)

    def _meet(self) -> None:
        """Answer those who wait for all others at the end of a clock."""
        live = {worker: member.ticked for worker, member in self.clocks.members.items() if member.is_live}
        tables, pending = list(enumerate(self.tables)), self._pending
        self.meetings.answer(live, lambda at: [held.squares(in_order(pending.get(at, []), number)) for number, held in tables])

    def _end(self, entries: list[Entry], scale: float) -> None:
        """Apply the pushes of a clock as one step."""
        for number, held in enumerate(self.tables):
            try:
                held.push_together(in_order(entries, number), self._wall(), scale)
            except InputError:  # of a sum: each push was small; none of them counts
                self.counts["steps_refused"] += 1
        for entry in entries:
            self._count(entry, len(entry.keys))

    def noted(self) -> bytes:
        """What the disk must know of the shard beside rows."""
        return msgspec.msgpack.encode([self.clocks.noted(self.cutter.safe_ticks), self.map_version, self.owners.tobytes()])

    def _recover(self, keep: Keep, now: float) -> None:
        if notes := keep.notes():
            members, self.map_version, owners = msgspec.msgpack.decode(notes, type=tuple[bytes, int, bytes])
            self.clocks.recall(members, now)
            self._adopt(np.frombuffer(owners, np.uint16).copy())
            self.cutter.owner_epoch = self.map_version
        for held in self.tables:
            owned = (kept for kept in keep.recover(held.table.spec) if self.owned[kept.bucket])
            while several := list(islice(owned, RECOVER_BUCKETS)):
                held.put_all(several)

    def _adopt(self, owners: np.ndarray) -> None:
        self.owners = owners
        self.owned[:] = owners == self.number

    def give(self, first: int, last: int) -> Moving:
        """Buckets of a range for another shard to `take`; answer nothing between this and `remap`.

        Under `bsp`, pushes of a clock that the other shard has ended already are steps of their own there.
        """
        wanted = np.zeros(BUCKETS, np.uint8)
        wanted[first:last] = self.owned[first:last]
        return Moving([held.give(first, last) for held in self.tables], self._pending_in(wanted))

    def take(self, moving: Moving, version: int) -> None:
        """Own what another shard gave, under map `version`; it is on the disk when this returns."""
        self.cutter.owner_epoch = max(version, self.cutter.owner_epoch)
        for held, buckets in zip(self.tables, moving.tables, strict=True):
            if not buckets:
                continue
            self.cutter.write_now(held.take(buckets, self.noted(), self.cutter.owner_epoch))
            for worker, applied in held.applied.items():
                low = min(int(applied[kept.bucket]) for kept in buckets)  # what its worker has sent since may come only now
                self.received[worker] = min(self.received.get(worker, low), low)
                self.cutter.lower(worker, low)
        for clock, entry in moving.pending:
            if clock < self._open_clock:
                self.tables[entry.table].push(entry, self._wall())
            else:
                self._pending[clock].append(entry)

    def _pending_in(self, wanted: np.ndarray) -> list[tuple[int, Entry]]:
        salts = [held.salt for held in self.tables]
        parts = [(clock, within(entry, salts[entry.table], wanted)) for clock, es in self._pending.items() for entry in es]
        return [(clock, entry) for clock, entry in parts if len(entry.keys)]

    def remap(self, owners: np.ndarray, version: int) -> None:
        """A new map: what is not owned any more goes, and the disk knows it when this returns.

        All workers' links end, so that each sends again, under the new map, what is not durable.
        """
        if version <= self.map_version:
            raise Fenced(f"map {version} is not newer than map {self.map_version}", where=self.name)
        for session in self.sessions.values():
            session.close()
        self._adopt(owners.astype(np.uint16))
        self.map_version = version
        self.cutter.owner_epoch = max(version, self.cutter.owner_epoch)
        mine = self._pending_in(self.owned)
        self._pending.clear()
        for clock, entry in mine:
            self._pending[clock].append(entry)
        for held in self.tables:
            held.forget()
        self.cutter.write_now(self.tables[0].nothing(self.noted(), self.cutter.owner_epoch))

    def _told(self, ask: wire.Ask) -> dict[str, Any]:
        if ask.what == "expire":
            return {"expired": sum(held.table.expire(ask.value) for held in self.tables)}
        if ask.what in ("export", "load"):
            return carried.answer(self.tables, ask, lambda moved: self.take(Moving(moved, []), self.map_version))
        return self.stats()

    def stats(self) -> dict[str, Any]:
        """Counts since it began."""
        rows = {held.name: len(held.table) for held in self.tables}
        trouble = {"trouble": self.cutter.trouble} if self.cutter.trouble else {}
        return {"rows": rows, "staleness": self.staleness.told(), **self.counts, **trouble}

    def close(self) -> None:
        """Write what is left."""
        self.cutter.close()


def even_map(num: int) -> np.ndarray:
    """Owner of each bucket where `num` shards have as many each, uint16 [BUCKETS]."""
    return (np.arange(BUCKETS) * num // BUCKETS).astype(np.uint16)
