"""The ways that are compared: gyral's, and the orders that servers in use have, each a few lines over the same cost model.

| policy | whose way |
|---|---|
| FIFO | unbounded: Ray Serve's and LitServe's default, vLLM's before its queue caps of 2026-07 |
| bounded FIFO | refuse beyond N: Ray Serve's `max_queued_requests`, BentoML's `max_concurrency`, vLLM's `max_num_queued_reqs` |
| EDF | order by deadline, batch as large as the tightest allows: llm-d's ordering, Clipper's batching |
| EDF + hopeless | the same, and those are dropped who could not be answered in time even alone: Triton's queue policy |
"""

from __future__ import annotations

import heapq
from collections import deque

from simulator import Request, Taken

from gyral.model.tiers import BUILT_IN
from gyral.serve.scheduling.admission import Admission
from gyral.serve.scheduling.batch import Queue, Waiting
from gyral.serve.scheduling.cost import Cost, Curve
from gyral.serve.scheduling.dispatch import Dispatcher
from gyral.serve.scheduling.router import Variant


class Fifo:
    """First come, first served, batches as large as the backlog; beyond `bound` waiting requests are refused."""

    def __init__(self, max_batch: int, bound: int | None = None) -> None:
        self.waiting: deque[Request] = deque()
        self.max_batch, self.bound = max_batch, bound

    def arrive(self, request: Request, now: float) -> bool:
        if self.bound is not None and len(self.waiting) >= self.bound:
            return False
        self.waiting.append(request)
        return True

    def take(self, now: float) -> tuple[Taken | None, list[int]]:
        ids = [self.waiting.popleft().id for _ in range(min(self.max_batch, len(self.waiting)))]
        return (Taken(ids) if ids else None), []

    def done(self, taken: Taken, seconds: float) -> None:
        pass


class Edf:
    """Earliest deadline first; the batch is as large as keeps the first one's deadline."""

    def __init__(self, max_batch: int, prior: Curve, *, drops_hopeless: bool) -> None:
        self.heap: list[tuple[float, int]] = []
        self.cost = Cost(prior, max_batch)
        self.max_batch, self.drops_hopeless = max_batch, drops_hopeless

    def arrive(self, request: Request, now: float) -> bool:
        heapq.heappush(self.heap, (request.deadline, request.id))
        return True

    def take(self, now: float) -> tuple[Taken | None, list[int]]:
        gone: list[int] = []
        while self.drops_hopeless and self.heap and self.heap[0][0] < now + self.cost.safe(1):
            gone.append(heapq.heappop(self.heap)[1])
        if not self.heap:
            return None, gone
        size = min(len(self.heap), max(1, self.cost.fits(self.heap[0][0] - now)))
        return Taken([heapq.heappop(self.heap)[1] for _ in range(size)]), gone

    def done(self, taken: Taken, seconds: float) -> None:
        self.cost.observe(len(taken.ids), seconds)


def _waiting(request: Request) -> Waiting:
    return Waiting(request.id, request.deadline, request.key, request.priority)


class Own:
    """gyral's queue with one variant."""

    def __init__(self, max_batch: int, prior: Curve, *, workers: int = 1) -> None:
        self.queue = Queue(max_batch, workers=workers)
        self.cost = Cost(prior, max_batch)

    def arrive(self, request: Request, now: float) -> bool:
        return self.queue.push(_waiting(request), now)

    def take(self, now: float) -> tuple[Taken | None, list[int]]:
        batch = self.queue.take(now, self.cost)
        gone = [each.waiting.id for each in self.queue.dropped]
        self.queue.dropped.clear()
        return (Taken([one.id for one in batch.requests]) if batch else None), gone

    def done(self, taken: Taken, seconds: float) -> None:
        self.cost.observe(len(taken.ids), seconds)


class Varied:
    """gyral's dispatcher with several variants."""

    def __init__(self, variants: list[Variant], *, workers: int = 1, max_waiting: int = 8192, admits: bool = True) -> None:
        self.dispatcher = Dispatcher(variants, BUILT_IN, workers=workers, max_waiting=max_waiting)
        self.admission = Admission(self.dispatcher, lambda: 0.5) if admits else None
        self.place = {each.name: number for number, each in enumerate(variants)}
        self.names = [each.name for each in variants]
        self.switches = 0
        self._last = ""

    def arrive(self, request: Request, now: float) -> bool:
        if self.admission is None:
            return self.dispatcher.push(_waiting(request), now)
        return self.admission.offer(_waiting(request), now) is None

    def take(self, now: float) -> tuple[Taken | None, list[int]]:
        batch = self.dispatcher.take(now)
        gone = [each.waiting.id for each in self.dispatcher.dropped]
        self.dispatcher.dropped.clear()
        if batch is None:
            return None, gone
        self.switches += batch.variant.name != self._last
        self._last = batch.variant.name
        return Taken([one.id for one in batch.requests], self.place[batch.variant.name]), gone

    def done(self, taken: Taken, seconds: float) -> None:
        self.dispatcher.done(self.names[taken.variant], len(taken.ids), seconds)
