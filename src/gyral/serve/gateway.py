"""Between routes and workers: who waits, who goes together, computed by which variant, and who is told that it is too late.

A batch is what waits when a worker has nothing to do: nobody waits for a timer, and what came in one turn of the loop goes
together. A worker has one batch at a time, so what a batch took is measured without anybody's waiting in it; the hop (some 50
µs) is what two at a time would save, and is paid once a batch. Each slot has a queue of its own; workers go to them by turns.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gyral.config.sections import DeviceTier
from gyral.http import Refused
from gyral.serve.engine import Ask, Part, failed
from gyral.serve.pool import Pool
from gyral.serve.scheduling.admission import Admission
from gyral.serve.scheduling.batch import Waiting
from gyral.serve.scheduling.cascade import First, chosen
from gyral.serve.scheduling.cost import Curve
from gyral.serve.scheduling.dispatch import Dispatched, Dispatcher
from gyral.serve.scheduling.router import Choice, Variant

FIRST = "first of "
"""Before a slot's name, its queue for the variant that is asked first; no slot has a space in its name."""
EXPIRE_S = 0.005
"""How often those who wait are looked at while no worker is free."""
OnPart = Callable[[Part], None]


class Wanted(NamedTuple):
    """One request.

    Attributes
    ----------
    slot : which queue.
    until : when an answer is worth nothing (monotonic seconds); inf: never.
    key, priority, weight : whose it is, and what that is worth.
    floor : least quality of the variant, 1 that of the first.
    """

    path: str
    body: bytes
    slot: str = ""
    until: float = math.inf
    key: str = ""
    priority: int = 1
    weight: float = 1.0
    floor: float = -math.inf

    def waiting(self, id: int, floor: float | None = None) -> Waiting:
        """What a queue has to know of it; `floor` instead of its own."""
        floor = self.floor if floor is None else floor
        return Waiting(id, self.until, self.key, self.priority, self.weight, floor=floor)


class Demand(NamedTuple):
    """Requests a second, those that wait, and requests a second of one worker within their deadlines."""

    rate: float
    waiting: int
    capacity: float


class _Batch:
    """What one worker has been given."""

    __slots__ = ("began", "dispatcher", "is_whole", "left", "size", "variant")

    def __init__(self, dispatcher: Dispatcher, variant: str, size: int, began: float) -> None:
        self.dispatcher, self.variant, self.size, self.began = dispatcher, variant, size, began
        self.left, self.is_whole = size, True


class _Request:
    """From being let in to the answer."""

    __slots__ = ("batch", "is_again", "on_part", "queue", "small", "wanted")

    def __init__(self, wanted: Wanted, on_part: OnPart, queue: str) -> None:
        self.wanted, self.on_part, self.queue = wanted, on_part, queue
        self.batch: _Batch | None = None
        self.is_again = False
        self.small: Part | None = None
        """The answer of the small variant, which counts where the large one's would be too late and the floor allows it."""


class Gateway:
    """The queues before one pool.

    Parameters
    ----------
    pool : made with `on_room=lambda: gateway.pump()`.
    slots : slot → its variants; a variant's name is the one it has in the set of models that the workers hold.
    tiers : classes of devices; workers are of `server`.
    on_batch : told the variant, size and seconds of each batch that was measured.
    cascade : variants that know when they are sure are asked first (`scheduling.cascade`).
    """

    def __init__(
        self, pool: Pool, slots: Mapping[str, Sequence[Variant]], tiers: Mapping[str, DeviceTier], *, max_waiting: int = 8_192,
        max_batch: int = 64, on_batch: Callable[[str, int, float], None] = lambda *_: None,
        draw: Callable[[], float] = random.random, cascade: bool = False,
    ) -> None:  # fmt: skip
        self._has_cascade = cascade
        self._firsts: dict[str, First] = {}
        self._pool, self._tiers, self._max_waiting, self._draw, self._on_batch = pool, tiers, max_waiting, draw, on_batch
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, _Request] = {}
        self._dispatchers: dict[str, Dispatcher] = {}
        self._admissions: dict[str, Admission] = {}
        self._turn: list[str] = []
        self._next = 0
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._not_answered = {"full": 0, "late": 0, "hopeless": 0, "crowded": 0}
        self.use(slots)

    def use(self, slots: Mapping[str, Sequence[Variant]]) -> None:
        """Have other variants answer; who waits keeps waiting, and a slot that is gone refuses who waits for it."""
        waiting = [(id, each) for id, each in self._requests.items() if each.batch is None]
        before, self._firsts = self._firsts, {}
        queues = dict(slots)
        for name, variants in slots.items():
            if self._has_cascade and (pair := chosen(variants)) is not None:
                queues[FIRST + name] = [pair[0]]
        for name, variants in queues.items():
            known = self._learned(name)
            variants = [
                each._replace(max_batch=self._max_batch, curves={"server": known.get(each.name, each.curves["server"])})
                for each in variants
            ]
            dispatcher = Dispatcher(variants, self._tiers, workers=max(1, self._pool.num_ready), max_waiting=self._max_waiting)
            self._dispatchers[name] = dispatcher
            counts = None if name.startswith(FIRST) else self._not_answered  # who is refused there is asked the other way
            self._admissions[name] = Admission(dispatcher, self._draw, counts)
        for name in [name for name in self._dispatchers if name not in queues]:
            del self._dispatchers[name], self._admissions[name]
        for name, variants in slots.items():
            if FIRST + name in queues:
                small, large = queues[FIRST + name][0], variants[0]
                costs = self._dispatchers[FIRST + name].cost(small.name), self._dispatchers[name].cost(large.name)
                first = self._firsts[name] = First(small, large, costs)
                if name in before:
                    first.counts = before[name].counts
        self._turn = list(self._dispatchers)
        now = time.monotonic()
        for id, each in waiting:
            each.queue, each.small, each.is_again = each.wanted.slot, None, False
            found = self._dispatchers.get(each.wanted.slot)
            if found is None or not found.push(each.wanted.waiting(id), now):
                self._end(id, failed(id, 503, "the models here have changed", hint="ask again"))
        self.pump()

    def _learned(self, slot: str) -> dict[str, Curve]:
        """What batches of each variant were seen to cost: a new version begins with what its predecessor took."""
        dispatcher = self._dispatchers.get(slot)
        costs = {name: dispatcher.cost(name) for name in dispatcher.names} if dispatcher is not None else {}
        return {name: Curve(cost.fixed_s, cost.each_s) for name, cost in costs.items() if cost.observed}

    def ask(self, wanted: Wanted, on_part: OnPart) -> int:
        """Let a request wait for its turn; its number, for `cancel`. `on_part` is called once, on the loop.

        Raises
        ------
        Refused : 503 when too many wait, 504 when no answer could be in time, 400 when no variant is as good as the floor.
        """
        self._next = id = self._next + 1
        now = time.monotonic()
        if wanted.slot not in self._admissions:  # the models have just changed, and with them the slots
            raise Refused(503, f"nothing answers in `{wanted.slot}` now", hint="ask again", headers=((b"retry-after", b"1"),))
        queue = FIRST + wanted.slot
        if not self._begins(wanted, now) or self._admissions[queue].offer(wanted.waiting(id, -math.inf), now) is not None:
            queue = wanted.slot
            refusal = self._admissions[queue].offer(wanted.waiting(id), now)
            if refusal is not None:
                raise refusal.raised()
        self._requests[id] = _Request(wanted, on_part, queue)
        self.pump()
        return id

    def _begins(self, wanted: Wanted, now: float) -> bool:
        """Whether it goes to the small variant first."""
        first = self._firsts.get(wanted.slot)
        if first is None or wanted.path != first.cascade.path:
            return False
        return first.begins(wanted.floor, wanted.until - now, max(1, self._pool.num_ready), now)

    def cancel(self, id: int) -> None:
        """Nobody waits for it any more; `on_part` is not called."""
        request = self._requests.pop(id, None)
        if request is None:
            return
        if request.batch is None:
            dispatcher = self._dispatchers.get(request.queue)
            if dispatcher is not None:
                dispatcher.cancel(id)
            return
        self._pool.cancel(id)
        request.batch.is_whole = False
        self._counted(request.batch)

    def pump(self) -> None:
        """Look, at the end of this turn of the loop, whether a worker can be given something."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._pump)

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""
        return sum(len(each) for each in self._dispatchers.values())

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet."""
        return len(self._requests)

    def not_answered(self) -> dict[str, int]:
        """Requests that were not let in, or given up, by why; whatever is swapped, it only grows."""
        return dict(self._not_answered)

    def choices(self) -> dict[str, Choice]:
        """What was chosen last for each slot, and why."""
        found = {}
        for name, dispatcher in self._dispatchers.items():
            choice = dispatcher.choice()
            if choice is not None and not name.startswith(FIRST):
                found[name] = choice
        return found

    def cascades(self) -> dict[str, First]:
        """Of each slot that has one."""
        return dict(self._firsts)

    def demand(self) -> Demand:
        """What comes, what waits, and what one worker carries of it."""
        rate = sum(each.rate for each in self._dispatchers.values())
        busiest = max(self._dispatchers.values(), key=lambda each: each.rate)
        if not self._firsts or rate <= 0:
            return Demand(rate, self.waiting, busiest.capacity())
        seconds = sum(each.rate / max(each.capacity(), 1e-9) for each in self._dispatchers.values())
        return Demand(rate, self.waiting, rate / seconds)

    def close(self) -> None:
        """Refuse who still waits."""
        if self._timer is not None:
            self._timer.cancel()
        for id in list(self._requests):
            self._end(id, failed(id, 503, "the server is being stopped", hint="ask again"))

    def _pump(self) -> None:
        self._is_due = False
        now = time.monotonic()
        workers = self._pool.num_ready
        idle_turns = 0
        while self._pool.is_idle and idle_turns < len(self._turn):
            slot = self._turn[0]
            self._turn.append(self._turn.pop(0))
            dispatcher = self._dispatchers[slot]
            if workers and workers != dispatcher.workers:
                dispatcher.set_workers(workers)
            found = dispatcher.take(now)
            self._given_up(dispatcher)
            if found is None:
                idle_turns += 1
                continue
            idle_turns = 0
            self._give(dispatcher, found, now)
        if self._timer is None and self.waiting:
            self._timer = self._loop.call_later(EXPIRE_S, self._expire)

    def _give(self, dispatcher: Dispatcher, found: Dispatched, now: float) -> None:
        variant = found.variant.name
        batch = _Batch(dispatcher, variant, len(found.requests), now)
        asks = []
        for each in found.requests:
            request = self._requests[each.id]
            request.batch = batch
            wanted = request.wanted
            asks.append(Ask(each.id, wanted.path, wanted.body, wanted.until - now, "", False, variant))
        self._pool.ask_together(asks, self._heard)

    def _heard(self, part: Part) -> None:
        request = self._requests.get(part.id)
        if request is None or request.batch is None:
            return
        batch = request.batch
        if part.status >= 500:
            batch.is_whole = False
        first = self._firsts.get(request.wanted.slot)
        if first is None:
            self._end(part.id, part)
        elif request.queue.startswith(FIRST) and part.status in (200, 500):
            self._judge(request, part, first)
        else:
            self._end(part.id, _by(first, "escalated", part) if request.is_again and part.status == 200 else part)
        self._counted(batch)

    def _judge(self, request: _Request, part: Part, first: First) -> None:
        """The small variant has answered: that is it, or the large one is asked."""
        wanted, is_answer = request.wanted, part.status == 200
        if is_answer and first.keeps(part.props):
            self._end(part.id, _by(first, "kept", part))
            return
        request.batch, request.queue, request.is_again = None, wanted.slot, True
        request.small = part if is_answer and wanted.floor <= first.small.quality else None
        refused = dict.fromkeys(self._not_answered, 0)
        door = Admission(self._dispatchers[wanted.slot], self._draw, refused)
        refusal = door.offer(wanted.waiting(part.id, first.large.quality), time.monotonic())
        if refusal is not None and not self._small_instead(request, part.id):
            for why, count in refused.items():
                self._not_answered[why] += count
            hint = "allow more time (`x-deadline-ms`), or ask less"
            self._end(part.id, failed(part.id, refusal.status, refusal.what, why=refusal.why, hint=hint))

    def _small_instead(self, request: _Request, id: int) -> bool:
        """End with the small variant's answer, since the large one's would be too late, where the floor allows it."""
        first = self._firsts.get(request.wanted.slot)
        if request.small is None or first is None:
            return False
        self._end(id, _by(first, "late", request.small))
        return True

    def _counted(self, batch: _Batch) -> None:
        """One of a batch is answered or gone; with the last one it is measured."""
        batch.left -= 1
        if batch.left:
            return
        if batch.is_whole:
            seconds = time.monotonic() - batch.began
            batch.dispatcher.done(batch.variant, batch.size, seconds)
            for first in self._firsts.values():
                if batch.variant in (first.small.name, first.large.name):
                    first.batch(batch.size)
            self._on_batch(batch.variant, batch.size, seconds)
        self.pump()

    def _expire(self) -> None:
        self._timer = None
        now = time.monotonic()
        for dispatcher in list(self._dispatchers.values()):
            dispatcher.expire(now)
            self._given_up(dispatcher)
        if self.waiting:
            self._timer = self._loop.call_later(EXPIRE_S, self._expire)

    def _given_up(self, dispatcher: Dispatcher) -> None:
        dropped, dispatcher.dropped = dispatcher.dropped, []
        for one, why in dropped:
            request = self._requests.get(one.id)
            if request is not None and self._small_instead(request, one.id):
                continue
            self._not_answered[why] += 1
            told = "the deadline passed" if why == "hopeless" else "there is more to do than can be done in this time"
            self._end(one.id, failed(one.id, 504, told, hint="allow more time (`x-deadline-ms`), or ask less"))

    def _end(self, id: int, part: Part) -> None:
        request = self._requests.pop(id, None)
        if request is not None:
            request.on_part(part)


def _by(first: First, how: str, part: Part) -> Part:
    """An answer that says by which of two it is, counted."""
    first.counts[how] += 1
    return part._replace(props={**part.props, "cascade": how})
