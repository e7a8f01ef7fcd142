"""A shard: some buckets of all tables, and a loop that answers one frame after the other. It knows no sockets and no clock.

Whoever runs it (a thread, a process behind TCP or shared memory, a test with a clock of its own) hands it frames of sessions
and calls `work` in between. A pull that must wait for slower workers is parked, not a thread; `work` lets it go when it may. In
`bsp` pushes wait for the end of their clock and are applied in the order of workers, as one step. Nothing is lost or applied
twice: see `gyral.params.held` for the rule, `gyral.params.cutting` for what is durable.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from gyral.errors import ConfigError, ConflictError, GyralError, InputError
from gyral.faults import fail_point
from gyral.params import carried, ownership, wire
from gyral.params.consistency import JOIN_S, LEASE_S, Clocks, Fenced, Staleness, parsed
from gyral.params.cutting import CUT_S, Cutter
from gyral.params.held import Entry, Held, Moved, Rows, in_order, is_small, within
from gyral.params.keep import Keep
from gyral.params.meeting import Meetings
from gyral.params.moving import Ask, Moves, Superseded
from gyral.params.ownership import even_map as even_map
from gyral.params.session import Session as Session
from gyral.params.spec import TableSpec
from gyral.params.wire import Arrays, Head

IDLE_S = 0.25


class Waiting(NamedTuple):
    """A pull that is parked."""

    session: Session
    head: wire.Pull
    keys: np.ndarray


class Settings(msgspec.Struct, frozen=True):
    """What all shards of a server share."""

    sync: str = "async"
    workers: int = 1
    lease_s: float = LEASE_S
    join_s: float = JOIN_S
    cut_s: float = CUT_S


class Shard:
    """Number `number` of the `num` that began; later the map says what is whose, and one that comes later begins with nothing.

    Attributes
    ----------
    words : the map, see `gyral.params.ownership`; `owned` is this shard's part of it, uint8 [BUCKETS].
    fatal : why it may not go on.
    recovered_s : that its folder took to read.
    """

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
        self.words, self.map_version = ownership.first_words(num), 0
        self.owned = (even_map(num) == number).astype(np.uint8)
        self.fatal: GyralError | None = None
        self.recovered_s = 0.0
        self.received: dict[int, int] = {}
        self.sessions: dict[int, Session] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self._parked: list[Waiting] = []
        self.meetings = Meetings()
        self._pending: dict[int, list[Entry]] = defaultdict(list)
        self.tables = [Held(table(spec), self.owned) for spec in specs]
        self.cutter = Cutter(keep, self.tables, settings.cut_s, self.received, self.clocks.ticks, self.noted)
        self.moves = Moves(self, keep.folder if keep is not None else None)
        if keep is not None:
            self._recover(keep, now)
        self.clocks.expect(settings.workers, now)
        self._open_clock = self.clocks.finished() or 0

    def handle(self, session: Session, head: Head, arrays: Arrays, now: float) -> None:
        """Answer a frame; one that is out of order, or of a fenced worker, ends the session. Never blocks."""
        if session.is_closed or self.fatal is not None:
            session.close()
            return
        if head.number != session.expected:
            self.counts["gaps"] += 1
            session.close()
            return
        session.expected += 1
        if not self.moves.holds(session, head, arrays):
            self.proceed(session, head, arrays, now)

    def proceed(self, session: Session, head: Head, arrays: Arrays, now: float) -> None:
        """Answer a frame whose turn it is."""
        if session.is_closed:
            return
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
            self._answer(session, head, arrays, now)
        except (ConflictError, Superseded) as error:
            self.stop(error)
        except GyralError as error:
            if self.fatal is None:
                self._refuse(session, head, error)

    def stop(self, error: GyralError) -> None:
        """It may not go on: another answers for its buckets, or its disk fails it in a move. Nobody is told anything more."""
        self.fatal = error
        for session in self.sessions.values():
            session.close()

    def _answer(self, session: Session, head: Head, arrays: Arrays, now: float) -> None:
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
                body = msgspec.msgpack.encode(self._told(head, now))
                session.say(lambda number: wire.Told(number, head.number, body))

    def _greet(self, session: Session, hello: wire.Hello, now: float) -> None:
        for what, theirs, ours in (
            ("protocol", hello.protocol, wire.PROTOCOL), ("tables", hello.digest, self.digest),
            ("sync", hello.sync, self.settings.sync),
        ):  # fmt: skip
            if theirs != ours:
                hint = "start shards and workers of one version, with the same tables and the same `sync`"
                raise ConfigError(f"a worker's {what} differ from the shard's", why=f"`{theirs}`, not `{ours}`", hint=hint)
        if hello.owners:
            self.moves.learn(ownership.decoded(hello.owners))
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
                number, self.number, self.birth, self.keeps, seq, clock, self.map_version, self.words.tobytes()
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
        if not self.owned.all():
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
        if not self.owned.all():
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
        owners = self.words.tobytes() if kind == "moved" else b""
        told = (error.what, error.where or self.name, error.why, error.hint, self.map_version, owners)
        epoch = error.epoch if isinstance(error, Fenced) else -1
        session.say(lambda number: wire.Refused(number, head.number, kind, *told, epoch))
        if kind != "input":
            session.close()

    def work(self, now: float) -> float:
        """Leases, parked pulls, the next part of a cut; seconds until it wants to be called again."""
        if self.fatal is not None:
            raise self.fatal
        self.moves.work(now)
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
        """Clocks went on: end those that all have finished, then let pulls go. Not while buckets are on their way out."""
        if self.moves.is_giving:
            return
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
        return self._noted(self.words)

    def _noted(self, words: np.ndarray) -> bytes:
        return msgspec.msgpack.encode([self.clocks.noted(self.cutter.safe_ticks), words.tobytes()])

    def _recover(self, keep: Keep, now: float) -> None:
        began = time.perf_counter()
        if notes := keep.notes():
            members, words = msgspec.msgpack.decode(notes, type=tuple[bytes, bytes])
            self.clocks.recall(members, now)
            self.know(ownership.decoded(words))
        for held in self.tables:
            for kept in keep.recover(held.table.spec):
                if self.owned[kept.bucket]:
                    held.put(kept)
        self.moves.clear()
        self.recovered_s = time.perf_counter() - began

    def know(self, words: np.ndarray) -> None:
        """A newer map."""
        self.words, self.map_version = np.maximum(self.words, words), ownership.version_of(words)
        self.owned[:] = ownership.owners_of(self.words) == self.number
        self.cutter.owner_epoch = max(self.map_version, self.cutter.owner_epoch)

    def leave(self, words: np.ndarray) -> None:
        """Give buckets away: they are another's once this map is on the disk, which it is when this returns."""
        self.cutter.write_now(self.tables[0].nothing(self._noted(words), ownership.version_of(words)))
        fail_point("params.move.committed")
        self.know(words)
        for session in self.sessions.values() if self.clocks.sync.bound >= 0 else ():
            session.close()  # the new owner waits for its clock, and under `bsp` for what it sent of them for the end of one
        for entries in self._pending.values():
            entries[:] = [within(each, self.tables[each.table].salt, self.owned) for each in entries]
        for held in self.tables:
            held.forget()

    def start_over(self, ticks: Mapping[int, int]) -> None:
        """Buckets come whose pushes may be under way: workers must come again with all that they do not know to be durable.

        Parameters
        ----------
        ticks : clocks that their owner had seen finished; workers that were behind there are so here until they have come.
        """
        for session in self.sessions.values():
            session.close()
        self.sessions.clear()
        self._parked.clear()
        self.received.clear()
        self.cutter.forget_marks()
        self.clocks.lower(ticks)
        self._open_clock = min(self._open_clock, self.clocks.finished() or 0)

    def look_at_parked(self) -> None:
        """A move has ended: whose turn is it?"""
        self._advance()
        waiting, self._parked = self._parked, []
        for each in waiting:
            try:
                self.tables[each.head.table].check(each.keys)
                self._parked.append(each)
            except GyralError as error:
                self._refuse(each.session, each.head, error)

    def _told(self, ask: wire.Ask, now: float) -> dict[str, Any]:
        if ask.what == "stats":
            return self.stats()
        if ask.what == "expire":
            return {"expired": sum(held.table.expire(ask.value) for held in self.tables)}
        if ask.what in ("export", "load"):
            return carried.answer(self, ask)
        return self.moves.answer(ask.what, msgspec.msgpack.decode(ask.body, type=Ask), now)

    def stats(self) -> dict[str, Any]:
        """Counts since it began."""
        rows = {held.name: len(held.table) for held in self.tables}
        size = sum(getattr(held.table, "nbytes", 0) for held in self.tables)
        trouble = {"trouble": self.cutter.trouble} if self.cutter.trouble else {}
        about: dict[str, Any] = {"shard": self.number, "buckets": int(self.owned.sum()), "map": self.map_version, "bytes": size}
        moved = {f"buckets_{name}": num for name, num in self.moves.counts.items()} | {"longest_move_s": self.moves.longest_s}
        about["recovered_s"] = self.recovered_s
        return {**about, "rows": rows, "staleness": self.staleness.told(), **self.counts, **moved, **trouble}

    def close(self) -> None:
        """Write what is left."""
        self.cutter.close(is_lost=self.fatal is not None)
