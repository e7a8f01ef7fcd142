"""Who may read when: workers' clocks, the three rules, leases, and how stale what was read is. Pure: time is an argument.

A worker's clock is how often it has said `tick`. With `ssp(s)` a pull at clock c waits until every live worker has finished
clock c − s − 1, so it sees all their pushes up to that one, and its own. `bsp` is s = 0 where pushes of a clock become visible
all at once when everybody has finished it. `async` never waits. Whoever does not beat within its lease no longer counts, blocks
nobody, and is refused until it joins with a higher epoch.

Source: Ho et al., NIPS 2013 (stale synchronous parallel); Li et al., OSDI 2014.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from gyral.errors import ConfigError, RankError

LEASE_S = 15.0
JOIN_S = 60.0
"""For a worker that is expected, at the start or after a shard came back, to say something."""
_EXACT = 64


class Fenced(RankError):
    """A worker, or a shard, that another has taken the place of.

    Attributes
    ----------
    epoch : of the newest incarnation of this worker that joined; −1 where that is not what it is about.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "", epoch: int = -1) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.epoch = epoch


class Sync(msgspec.Struct, frozen=True):
    """A rule; `bound` is the s of ssp, or −1 where nobody waits."""

    name: str
    bound: int

    @property
    def is_bsp(self) -> bool:
        """Whether pushes of a clock are applied as one."""
        return self.name == "bsp"

    def __str__(self) -> str:
        return f"ssp:{self.bound}" if self.name == "ssp" else self.name


def parsed(words: str) -> Sync:
    """`bsp`, `ssp:4` or `async`.

    Raises
    ------
    ConfigError : it is none of them.
    """
    name, _, bound = words.partition(":")
    if name == "ssp" and bound.isdecimal():
        return Sync("ssp", int(bound))
    if words in ("bsp", "async"):
        return Sync(words, 0 if words == "bsp" else -1)
    raise ConfigError(f"`sync = {words}` is no rule of consistency", hint="allowed: `bsp`, `ssp:4` (a bound), `async`")


class Member(msgspec.Struct):
    """A worker as a shard knows it.

    Attributes
    ----------
    epoch : its incarnation; −1 while it is only expected.
    ticked : clocks that it has finished.
    due : when its lease ends.
    is_live : whether it counts.
    """

    epoch: int = -1
    ticked: int = 0
    due: float = 0.0
    is_live: bool = True


class Clocks:
    """The workers of a shard."""

    def __init__(self, sync: Sync, lease_s: float = LEASE_S, join_s: float = JOIN_S) -> None:
        self.sync, self.lease_s, self.join_s = sync, lease_s, join_s
        self.members: dict[int, Member] = {}

    def expect(self, num: int, now: float) -> None:
        """Workers 0 to `num` − 1 count from the start, and have `join_s` to come."""
        for worker in range(num):
            self.members.setdefault(worker, Member(due=now + self.join_s))

    def join(self, worker: int, epoch: int, now: float) -> Member:
        """A worker says hello, for the first time or again; only what it sends moves its clock.

        Raises
        ------
        Fenced : a newer incarnation of it was here, or its lease ran out.
        """
        known = self.members.get(worker)
        if known is not None and (epoch < known.epoch or (epoch == known.epoch and not known.is_live)):
            raise self.fence(worker, epoch)
        ticked = known.ticked if known is not None else 0
        if known is None or not known.is_live:  # it blocks nobody for what is past
            ticked = max(ticked, self.finished() or 0)
        self.members[worker] = member = Member(epoch, ticked, now + self.lease_s)
        return member

    def fence(self, worker: int, epoch: int) -> Fenced:
        """Why it is refused."""
        known = self.members[worker]
        if epoch < known.epoch:
            why = f"it is incarnation {epoch}, and incarnation {known.epoch} has joined since"
        else:
            why = f"it was silent for longer than its lease of {self.lease_s:g} s"
        hint = "open the client again: it joins with a higher epoch, and continues from its checkpoint"
        return Fenced(f"worker {worker} is fenced", why=why, hint=hint, epoch=known.epoch)

    def check(self, worker: int, epoch: int, now: float) -> Member:
        """The member that a frame comes from, whose lease begins anew.

        Raises
        ------
        Fenced : it no longer counts.
        """
        member = self.members.get(worker)
        if member is None or member.epoch != epoch or not member.is_live:
            raise self.fence(worker, epoch)
        member.due = now + self.lease_s
        return member

    def tick(self, worker: int, clock: int) -> None:
        """It has finished all clocks before `clock`; told again, or late, it changes nothing."""
        member = self.members[worker]
        member.ticked = max(member.ticked, clock)

    def lower(self, ticks: Mapping[int, int]) -> None:
        """Workers have finished no more than this, as far as some buckets know; they say so again when they come."""
        for worker, ticked in ticks.items():
            if worker in self.members:
                self.members[worker].ticked = min(self.members[worker].ticked, ticked)

    def leave(self, worker: int) -> None:
        """It is done."""
        self.members[worker].is_live = False

    def expire(self, now: float) -> list[int]:
        """Workers whose lease has run out by now; they no longer count."""
        gone = [worker for worker, member in self.members.items() if member.is_live and member.due < now]
        for worker in gone:
            self.members[worker].is_live = False
        return gone

    def next_due(self) -> float | None:
        """When the next lease ends."""
        return min((member.due for member in self.members.values() if member.is_live), default=None)

    def finished(self) -> int | None:
        """Clocks that every live worker has finished; None where none lives."""
        return min((member.ticked for member in self.members.values() if member.is_live), default=None)

    def may_pull(self, clock: int) -> bool:
        """Whether a pull at this clock sees all that it must."""
        if self.sync.bound < 0:
            return True
        finished = self.finished()
        return finished is None or finished >= clock - self.sync.bound

    def behind(self, clock: int) -> str:
        """Whom a pull at this clock waits for, in words."""
        late = [(w, m) for w, m in sorted(self.members.items()) if m.is_live and m.ticked < clock - self.sync.bound]
        return ", ".join(f"worker {w} {'has not come yet' if m.epoch < 0 else f'is at clock {m.ticked}'}" for w, m in late)

    def lag(self, clock: int) -> int:
        """Clocks between this one and the slowest live worker's."""
        finished = self.finished()
        return 0 if finished is None else max(0, clock - finished)

    def ticks(self) -> dict[int, int]:
        """Worker → clocks that it has finished."""
        return {worker: member.ticked for worker, member in self.members.items()}

    def settled(self) -> dict[int, int]:
        """Worker → clocks all of whose pushes of it are in the rows: under `bsp` those that everybody has finished."""
        ended = self.finished() if self.sync.is_bsp else None
        return {worker: ticked if ended is None else min(ticked, ended) for worker, ticked in self.ticks().items()}

    def noted(self, ticks: Mapping[int, int]) -> bytes:
        """All of it but the leases, for the disk.

        Parameters
        ----------
        ticks : as they were when the last finished round of a cut began: a shard that comes back must not believe that clocks
            are finished whose pushes it has lost. Too low is safe, as workers move their clocks with every frame.
        """
        rows = [(w, m.epoch, min(m.ticked, ticks.get(w, 0)), m.is_live) for w, m in sorted(self.members.items())]
        return msgspec.msgpack.encode(rows)

    def recall(self, notes: bytes, now: float) -> None:
        """What `noted` said; who was live has `join_s` to come again."""
        for worker, epoch, ticked, is_live in msgspec.msgpack.decode(notes, type=list[tuple[int, int, int, bool]]):
            self.members[worker] = Member(epoch, ticked, now + self.join_s, is_live)


class Staleness:
    """Two histograms: pushes of others that were applied between a worker's pull and its push; clocks that a pull was ahead.

    Values below 64 are counted exactly, larger ones as the power of two below.
    """

    def __init__(self) -> None:
        self.pushes: Counter[int] = Counter()
        self.clocks: Counter[int] = Counter()
        self._num = 0
        self._own: Counter[int] = Counter()
        self._seen: dict[int, int] = {}

    def pulled(self, worker: int, lag: int) -> None:
        """A worker has read."""
        self.clocks[_bin(lag)] += 1
        self._seen[worker] = self._num - self._own[worker]

    def pushed(self, worker: int) -> None:
        """A push of it was applied."""
        others = self._num - self._own[worker]
        self.pushes[_bin(others - self._seen.get(worker, others))] += 1
        self._num += 1
        self._own[worker] += 1

    def told(self) -> dict[str, Any]:
        """For `stats`: value → how often."""
        return {"pushes": dict(sorted(self.pushes.items())), "clocks": dict(sorted(self.clocks.items()))}


def _bin(value: int) -> int:
    return value if value < _EXACT else 1 << (value.bit_length() - 1)
