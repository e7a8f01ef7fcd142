"""One model with its variants before its workers: who goes next, and computed by which variant.

Requests wait in lanes: one for each set of variants that their quality floor allows, so that a batch is of one variant and a
floor is kept whatever the load. Lanes share the workers by start-time fair queueing over seconds of computing, weighted by
their rates. The variant is chosen when a batch is taken, not when a request comes: in a burst those who wait already are
answered by the faster variant too. A choice costs 30 µs, so it is made anew when the rate has moved, every 10 ms while more
than two batches wait, or after a second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gyral.config.sections import DeviceTier
from gyral.serve.scheduling.autoscale import capacity_of
from gyral.serve.scheduling.batch import Dropped, Queue, Waiting
from gyral.serve.scheduling.router import Choice, Router, Variant, Wish

CHECK_S: Final = 0.05
"""A choice holds at least this long, and a second while the rate stays within `MOVED` of what the variant sustains."""
MOVED: Final = 0.05
CROWDED_S: Final = 0.01
TIGHT_SHARE: Final = 0.1
"""A variant has to keep the deadline that this share of the requests is tighter than."""
SEEN: Final = 64


class Dispatched(NamedTuple):
    """A batch, the variant that computes it, and why that one."""

    requests: list[Waiting]
    variant: Variant
    expected_s: float
    choice: Choice


class Lane:
    """Requests that allow the same variants."""

    def __init__(self, floor: float, router: Router, max_batch: int, max_waiting: int, workers: int) -> None:
        self.floor, self.router = floor, router
        self.allowed = [each for each in router.variants if each.quality >= floor]
        self.queue = Queue(max_batch, max_waiting=max_waiting, workers=workers)
        self.choice: Choice | None = None
        self.checked_at = -math.inf
        self.checked_rate = self.capacity = 0.0
        self.start = 0.0
        self.slack = [math.inf] * SEEN
        self.seen = 0
        self.refresh()

    def refresh(self) -> None:
        """Look up the figures that each request is held against: they change slowly."""
        costs = [self.router.cost(each.name) for each in self.allowed]
        self.quickest = min(costs, key=lambda cost: cost.seconds(1))
        self.least_s = self.quickest.seconds(1)
        self.each_s = 1 / (max(cost.rate() for cost in costs) * self.queue.workers)

    def push(self, one: Waiting, now: float) -> bool:
        """Let a request wait; False when too many do."""
        if not self.queue.push(one, now):
            return False
        slack = one.deadline - now
        self.slack[self.seen % SEEN] = slack if slack == slack else math.inf
        self.seen += 1
        return True

    def wait_s(self, deadline: float, priority: int) -> float:
        """Expected seconds until a request with this deadline would be answered, by the fastest variants that are allowed."""
        return self.queue.ahead(deadline, priority) * self.each_s + self.least_s

    def tight_s(self) -> float:
        """The deadline that nine of ten of the last requests had, or a longer one."""
        last = sorted(self.slack[: min(self.seen, SEEN)])
        return last[int(TIGHT_SHARE * len(last))] if last else math.inf

    def used(self, workers: float) -> float:
        """Share of the workers that it needs with the variant it has; at most 1."""
        if self.choice is None or self.choice.variant is None:
            return 0.0
        return min(1.0, self.queue.rate / self.capacity) if self.capacity > 0 else 1.0


class Dispatcher:
    """The queue of one model and tier.

    Parameters
    ----------
    variants : at least one.
    workers : how many compute it.

    Raises
    ------
    ValueError : there is no variant.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        tiers: Mapping[str, DeviceTier],
        *,
        tier: str = "server",
        workers: int = 1,
        max_waiting: int = 8192,
    ) -> None:
        if not variants:
            raise ValueError("a model without variants cannot be served")
        self.workers, self.dropped = workers, list[Dropped]()
        self._router = Router(variants, tiers, tier)
        self.cost = self._router.cost
        self._floors = sorted({each.quality for each in variants})
        self.max_batch = most = max(each.max_batch for each in variants)
        self._lanes = [Lane(floor, self._router, most, max_waiting, workers) for floor in self._floors]
        self._virtual = 0.0
        self.load = 0.0
        """The measured rate over what the fastest allowed variants sustain in full batches; above 1 somebody is given up."""

    def __len__(self) -> int:
        return sum(len(lane.queue) for lane in self._lanes)

    @property
    def names(self) -> list[str]:
        """Of its variants."""
        return [each.name for each in self._router.variants]

    @property
    def rate(self) -> float:
        """Requests a second that came lately."""
        return sum(lane.queue.rate for lane in self._lanes)

    def set_workers(self, workers: int) -> None:
        """Tell that workers came or went."""
        self.workers = workers
        for lane in self._lanes:
            lane.queue.workers = max(1, workers)
            lane.refresh()

    def push(self, one: Waiting, now: float) -> bool:
        """Let a request wait; False when too many do, or no variant is as good as its floor."""
        lane = self.lane(one.floor)
        return lane is not None and lane.push(one, now)

    def lane(self, floor: float) -> Lane | None:
        """Where requests with this floor wait; None when no variant is as good."""
        for lane in self._lanes:
            if floor <= lane.floor:
                return lane
        return None

    def cancel(self, id: int) -> bool:
        """Forget a request; False when it does not wait."""
        return any(lane.queue.cancel(id) for lane in self._lanes)

    def take(self, now: float) -> Dispatched | None:
        """The next batch for a free worker; None when nobody waits. Who was given up is in `dropped`."""
        waiting = [lane for lane in self._lanes if lane.queue.by_id]
        if len(waiting) > 1:
            waiting.sort(key=lambda lane: lane.start)
        for lane in waiting:
            choice = self._choice(lane, now)
            variant = choice.variant
            if variant is None:  # not even alone in time: the quickest finds out who is hopeless
                variant = next(each for each in lane.allowed if self.cost(each.name) is lane.quickest)
            cost = self.cost(variant.name)
            batch = lane.queue.take(now, cost)
            if lane.queue.dropped:
                self._collect(lane)
            if batch is None:
                continue
            self._virtual = lane.start = max(lane.start, self._virtual)
            share = lane.queue.rate / max(self.rate, 1e-9) if len(waiting) > 1 else 1.0
            lane.start += batch.expected_s / max(share, 0.01)
            return Dispatched(batch.requests, variant, batch.expected_s, choice)
        return None

    def expire(self, now: float) -> None:
        """Give up the hopeless while no worker is there."""
        for lane in self._lanes:
            lane.queue.expire(now, lane.quickest)
            self._collect(lane)

    def choice(self) -> Choice | None:
        """The last choice of the lane that most ask for; None before the first."""
        made = [lane for lane in self._lanes if lane.choice is not None]
        return max(made, key=lambda lane: lane.queue.rate).choice if made else None

    def capacity(self) -> float:
        """Requests a second that one worker answers in time with the variant that answers now."""
        lane = max(self._lanes, key=lambda each: each.queue.rate)
        chosen = lane.choice.variant if lane.choice is not None else None
        return capacity_of(self.cost(chosen.name) if chosen is not None else lane.quickest, lane.tight_s())

    def done(self, variant: str, size: int, seconds: float) -> None:
        """Learn from a batch that was measured."""
        self.cost(variant).observe(size, seconds)

    def drain_s(self) -> float:
        """Expected seconds until all who wait now are answered: what `retry-after` says."""
        return sum(len(lane.queue) * lane.each_s for lane in self._lanes)

    def _collect(self, lane: Lane) -> None:
        self.dropped += lane.queue.dropped
        lane.queue.dropped.clear()

    def _choice(self, lane: Lane, now: float) -> Choice:
        queue = lane.queue
        now = queue.tick(now)
        past = now - lane.checked_at
        is_calm = past < CHECK_S or (past < 1 and abs(queue.rate - lane.checked_rate) < MOVED * lane.capacity)
        is_crowded = len(queue) > 2 * queue.max_batch and past >= CROWDED_S
        if lane.choice is not None and is_calm and not is_crowded:
            return lane.choice
        others = sum(each.used(self.workers) for each in self._lanes if each is not lane)
        rate = self.rate
        share = max(lane.queue.rate / rate if rate > 0 else 1.0, 1 - others)
        wish = Wish("", lane.tight_s(), lane.floor, math.inf, lane.queue.rate, len(lane.queue), self.workers * share)
        choice = lane.choice = self._router.pick(wish, now)
        name = choice.variant.name if choice.variant else ""
        lane.capacity = next((each.capacity for each in choice.considered if each.name == name), 0.0)
        lane.refresh()
        self.load = sum(each.queue.rate * each.each_s for each in self._lanes)
        lane.checked_at, lane.checked_rate = now, lane.queue.rate
        return choice
