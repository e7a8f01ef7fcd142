"""Which requests go together next, and which are told at once that nobody will answer them in time.

Absolute deadlines, earliest first, in one sorted list a priority: taking and dropping are slices and counting is bisection,
which a heap cannot do; putting in and taking costs .3 µs a request with 32 waiting and .6 with 1,500 (a heap: .4 and .6).
There is no timer: a batch is taken when a worker is free, so it is of one request when nobody else waits, and grows with the
backlog by itself.

The size is the one decision. Earliest deadline first lets the tightest request shrink every batch, and at 1.5x overload answers
almost nobody in time (research: .003 of a possible .667). Here each size that could be taken is scored by

    share · (answered in time − what full batches would have answered meanwhile) − (1 − share) · those too late afterwards

where `share` rises from 0 to 1 while the measured rate rises from `CHEAP` to `DEAR` of what full batches sustain. So where
there is time, small batches save the tight ones; where there is none, the tight ones are dropped early and batches are full.
Simulated over loads from .5 to 2.5, Poisson and bursts, goodput changes by less than .005 on average between .3–1.3, .4–1.1
and .5–1; a price that rises later is punished: .5–1.4 loses a fifth of the answers at .85 to 1. A charge for those who will
come while a batch runs changes nothing (.001).

Fairness: requests enter the list in order of arrival until it holds `POOL` batches; beyond, keys wait in queues of their own
and enter by deficit round robin. So under overload a key gets its share whatever the others send, and what is late in the list
is decided by deadlines alone. Priorities are strict, but a level that waits gets at least one place of `FLOOR`.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final, NamedTuple

from gyral.serve.scheduling.cost import Cost

POOL: Final = 8
FLOOR: Final = 16
PATIENCE_S: Final = 10.0
"""What a request without a deadline is ordered by: as if it had this one. It is never dropped for being late."""
RATE_MEMORY_S: Final = 0.25
RATED_S: Final = 0.02
LARGEST: Final = 1e7
CHEAP, DEAR = 0.4, 1.1
"""The price of a second rises from 0 to full between these loads."""


class Waiting:
    """A request that waits, or would.

    Attributes
    ----------
    id, key : used once; whose it is.
    deadline : when an answer is worth nothing any more, on the clock of `now`; inf: never.
    weight, size : its key's share, .01 to 100, and what it counts against it, for example tokens; what is neither is 1.
    floor : least quality of the variant that answers.
    arrived, due : when it began to wait, and what it is ordered by; the queue sets them.
    """

    __slots__ = ("arrived", "deadline", "due", "floor", "id", "key", "place", "priority", "seq", "size", "weight")

    def __init__(
        self, id: int, deadline: float = math.inf, key: str = "", priority: int = 1, weight: float = 1.0, size: float = 1.0,
        floor: float = -math.inf,
    ) -> None:  # fmt: skip
        self.id, self.key, self.priority, self.weight, self.size, self.floor = id, key, priority, weight, size, floor
        self.deadline = deadline if deadline == deadline else math.inf
        self.arrived = self.due = 0.0
        self.seq = 0
        self.place: list[Entry] | None = None


Entry = tuple[float, int, Waiting]


class Dropped(NamedTuple):
    """A request that gets no answer, and why: `hopeless`, not even alone in time, or `crowded`, its batch would be small."""

    waiting: Waiting
    why: str


class Batch(NamedTuple):
    """Requests that are computed together; `expected_s` is what the cost model says."""

    requests: list[Waiting]
    expected_s: float


class Flow:
    """The requests of one key that wait to enter the list."""

    __slots__ = ("credit", "entries", "weight")

    def __init__(self, weight: float) -> None:
        self.entries: list[Entry] = []
        self.credit = 0.0
        self.weight = weight


class Level:
    """Requests of one priority: the list that batches are cut from, and in front of it a queue for each key."""

    def __init__(self, room: int) -> None:
        self.pool: list[Entry] = []
        self.flows: dict[str, Flow] = {}
        self.turn: deque[str] = deque()
        self.room = room
        self.passed_over = 0
        self.waiting = 0
        self._quantum = 1.0

    def push(self, one: Waiting) -> None:
        self.waiting += 1
        if not self.flows and len(self.pool) < self.room:
            one.place = self.pool
            insort(self.pool, (one.due, one.seq, one))
            return
        flow = self.flows.get(one.key)
        if flow is None:
            flow = self.flows[one.key] = Flow(one.weight)
            self.turn.append(one.key)
        one.place = flow.entries
        insort(flow.entries, (one.due, one.seq, one))
        self._quantum = max(self._quantum, one.size)

    def remove(self, one: Waiting) -> None:
        place = one.place
        if place is not None:
            del place[bisect_left(place, (one.due, one.seq))]
            one.place = None
            self.waiting -= 1

    def fill(self, hopeless: float, crowded: float, dropped: list[Dropped]) -> None:
        """Let keys in by turns, **Source**: deficit round robin, Shreedhar and Varghese 1995; who is dropped costs nothing."""
        pool, room = self.pool, self.room
        while self.turn and len(pool) < room:
            key = self.turn[0]
            flow = self.flows[key]
            entries = flow.entries
            taken = 0
            if entries and flow.credit < entries[0][2].size:
                flow.credit += flow.weight * self._quantum
            for _, _, one in entries:
                if one.deadline < crowded:
                    dropped.append(Dropped(one, "hopeless" if one.deadline < hopeless else "crowded"))
                    one.place = None
                    self.waiting -= 1
                elif one.size <= flow.credit and len(pool) < room:
                    flow.credit -= one.size
                    one.place = pool
                    insort(pool, (one.due, one.seq, one))
                else:
                    break
                taken += 1
            del entries[:taken]
            if not entries:
                del self.flows[key]
                self.turn.popleft()
            elif len(pool) < room:
                self.turn.rotate(-1)
        if not self.turn:
            self._quantum = 1.0


class Queue:
    """Requests of one model that wait, for workers that are alike.

    Parameters
    ----------
    max_batch : the largest batch.
    max_waiting : beyond, requests are refused, whatever their deadline.
    workers : how many take from it.
    priorities : levels; 0 is the most urgent.

    Notes
    -----
    One thread calls it. Clocks that go back or say nothing are taken for the latest moment seen.
    """

    def __init__(self, max_batch: int = 32, *, max_waiting: int = 8192, workers: int = 1, priorities: int = 3) -> None:
        self.max_batch, self.max_waiting, self.workers = max_batch, max_waiting, workers
        self.dropped: list[Dropped] = []
        self.rate = 0.0
        self._levels = [Level(POOL * max_batch) for _ in range(priorities)]
        self.by_id: dict[int, Waiting] = {}
        self._seq = 0
        self._now = -math.inf
        self._rated_at = -math.inf
        self._came = 0
        self._is_starving = False
        self._sizes = [size for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256) if size < max_batch]

    def __len__(self) -> int:
        return len(self.by_id)

    def tick(self, now: float) -> float:
        """The moment, never earlier than one seen before; the rate is measured on the way."""
        if not now >= self._now or now == math.inf:
            return self._now if self._now > -math.inf else 0.0
        self._now = now
        past = now - self._rated_at
        if past >= RATED_S:
            if past < math.inf:
                self.rate += (1 - math.exp(-past / RATE_MEMORY_S)) * (self._came / past - self.rate)
            self._came, self._rated_at = 0, now
        return now

    def push(self, one: Waiting, now: float) -> bool:
        """Let a request wait; False when `max_waiting` do.

        Raises
        ------
        ValueError : the id waits already.
        """
        if not (now >= self._now and now - self._rated_at < RATED_S):
            now = self.tick(now)
        self._now = now
        self._came += 1
        if len(self.by_id) >= self.max_waiting:
            return False
        if one.id in self.by_id:
            raise ValueError(f"request {one.id} waits already")
        one.priority = priority = min(max(one.priority, 0), len(self._levels) - 1)
        if not 1e-9 <= one.size <= LARGEST:
            one.size = 1.0
        if not 0.01 <= one.weight <= 100:
            one.weight = 1.0
        one.arrived = now
        one.due = one.deadline if one.deadline < math.inf else now + PATIENCE_S
        self._seq += 1
        one.seq = self._seq
        self.by_id[one.id] = one
        self._levels[priority].push(one)
        return True

    def count(self, now: float) -> None:
        """Count a request that was refused before it came here: the rate is of all who ask."""
        self.tick(now)
        self._came += 1

    def cancel(self, id: int) -> bool:
        """Forget a request; False when it does not wait (any more)."""
        one = self.by_id.pop(id, None)
        if one is None:
            return False
        self._levels[one.priority].remove(one)
        return True

    def ahead(self, due: float, priority: int = 1) -> int:
        """How many wait that would be answered before a request with this deadline."""
        priority = min(max(priority, 0), len(self._levels) - 1)
        level = self._levels[priority]
        before = sum(urgent.waiting for urgent in self._levels[:priority])
        return before + bisect_left(level.pool, (due,)) + level.waiting - len(level.pool)

    def load(self, cost: Cost) -> float:
        """The measured rate over what full batches sustain."""
        return self.rate / (cost.rate(self._most(cost)) * self.workers)

    def take(self, now: float, cost: Cost) -> Batch | None:
        """The next batch for a worker that is free, None when nobody waits; who was given up is in `dropped`."""
        now = self.tick(now)
        if not self.by_id:
            return None
        first_given_up = len(self.dropped)
        requests: list[Waiting] = []
        most = self._most(cost)
        for level in self._order() if self._is_starving else self._levels:
            if not level.waiting:
                continue
            self._give_up(level, now, cost)
            if not level.pool:
                continue
            if not requests:
                requests = self._cut(level, now, cost)
            else:
                self._join(level, now, cost, requests)
            if len(requests) >= most:
                break
        by_id = self.by_id
        for one, _ in self.dropped[first_given_up:]:
            del by_id[one.id]
        for one in requests:
            del by_id[one.id]
        if not requests:
            return None
        if by_id:
            self._note_passed_over({one.priority for one in requests}, len(requests))
        return Batch(requests, cost.seconds(len(requests)))

    def _most(self, cost: Cost) -> int:
        return cost.max_batch if cost.max_batch < self.max_batch else self.max_batch

    def expire(self, now: float, cost: Cost) -> None:
        """Give up the hopeless without taking a batch: what is called when no worker is there."""
        now = self.tick(now)
        start = len(self.dropped)
        for level in self._levels:
            self._give_up(level, now, cost)
        for one, _ in self.dropped[start:]:
            del self.by_id[one.id]

    def _order(self) -> list[Level]:
        """Levels by priority, but first one that was passed over too often."""
        starved = [level for level in self._levels if level.waiting and level.passed_over >= FLOOR * self.max_batch]
        return starved + [level for level in self._levels if level not in starved]

    def _note_passed_over(self, served: set[int], count: int) -> None:
        for priority, level in enumerate(self._levels):
            level.passed_over = 0 if priority in served or not level.waiting else level.passed_over + count
        self._is_starving = max(level.passed_over for level in self._levels) >= FLOOR * self.max_batch

    def _give_up(self, level: Level, now: float, cost: Cost) -> None:
        """Drop who could not be answered in time even alone, and fill the list from the keys' queues."""
        too_late = now + cost.safe(1)
        while True:
            pool = level.pool
            if pool and pool[0][0] < too_late:
                self._drop(level, bisect_left(pool, (too_late,)), "hopeless")
            if not level.flows or len(pool) >= level.room:
                return
            crowded = now + cost.safe(self._most(cost)) if self.load(cost) >= DEAR else too_late
            level.fill(too_late, crowded, self.dropped)

    def _drop(self, level: Level, count: int, why: str) -> None:
        """Drop the first of a list; those who have no deadline stay."""
        if not count:
            return
        kept = []
        for entry in level.pool[:count]:
            one = entry[2]
            if one.deadline == math.inf:
                kept.append(entry)
                continue
            one.place = None
            self.dropped.append(Dropped(one, why))
            if one.key in level.flows:
                level.flows[one.key].credit += one.size
        level.waiting -= count - len(kept)
        level.pool[:count] = kept

    def _cut(self, level: Level, now: float, cost: Cost) -> list[Waiting]:
        """Choose the size, and take those who keep their deadline in it."""
        pool = level.pool
        size = min(len(pool), self._most(cost))
        start = 0
        if pool[0][0] < now + cost.safe(size):
            size, start, is_dear = self._choose(pool, now, cost)
            if start and is_dear:
                before = len(pool)
                self._drop(level, start, "crowded")
                start -= before - len(pool)
        overdue = [entry for entry in pool[:start] if entry[2].deadline == math.inf][:size] if start else []
        taken = pool[start : start + size - len(overdue)]
        del pool[start : start + len(taken)]
        for entry in overdue:  # without a deadline, and longer here than `PATIENCE_S`
            del pool[bisect_left(pool, entry)]
        requests = [entry[2] for entry in overdue + taken]
        level.waiting -= len(requests)
        for one in requests:
            one.place = None
        return requests

    def _choose(self, pool: list[Entry], now: float, cost: Cost) -> tuple[int, int, bool]:
        """The best size, where in the list its requests begin, and whether those before it are given up."""
        most = self._most(cost)
        best = cost.rate(most)
        load = self.rate / (best * self.workers)
        share = min(1.0, max(0.0, (load - CHEAP) / (DEAR - CHEAP)))
        care = 1 - share
        waiting = len(pool)
        chosen = (-math.inf, 1, 0)
        alone = cost.safe(1)
        for size in (*(size for size in self._sizes if size < most), most):
            start = bisect_left(pool, (now + cost.safe(size),))
            count = min(size, waiting - start)
            if count <= 0:
                break
            seconds = cost.seconds(count)
            after = now + seconds + alone
            lost = bisect_left(pool, (after,), start + count) - count if care else 0
            score = share * (count - best * seconds) - care * lost
            if score >= chosen[0]:
                chosen = (score, count, start)
            if size >= waiting:
                break
        if chosen[0] == -math.inf:  # only such as have no deadline, and were due long ago
            return min(waiting, most), 0, False
        return chosen[1], chosen[2], share >= 1

    def _join(self, level: Level, now: float, cost: Cost, requests: list[Waiting]) -> None:
        """Fill a batch from a lower priority, as far as nobody in it is late for that."""
        tightest = min((one.deadline for one in requests), default=math.inf)
        room = min(self._most(cost), cost.fits(tightest - now)) - len(requests)
        if room <= 0:
            return
        start = bisect_left(level.pool, (now + cost.safe(len(requests) + min(room, len(level.pool))),))
        joined = [entry[2] for entry in level.pool[start : start + room]]
        del level.pool[start : start + room]
        level.waiting -= len(joined)
        for one in joined:
            one.place = None
        requests.extend(joined)
