"""When asks are too late: a heap that forgets those that were answered, and one timer.

Answered asks stay in the heap until they are due or until they are three quarters of it, when it is made anew: an answer costs
nothing here, and memory follows the asks in flight and not their rate times their deadline.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

SWEEP_S = 0.002
"""Deadlines are looked at this often at most."""
_SMALL = 1_024


class Timed(Protocol):
    """What has a deadline."""

    until: float


class Deadlines:
    """Tells who is too late.

    Parameters
    ----------
    flights : id → what is in flight; `until` in seconds of the monotonic clock, inf: no deadline.
    on_late : called with the id of each that is still in flight.
    """

    def __init__(self, flights: Mapping[int, Timed], on_late: Callable[[int], None]) -> None:
        self._flights, self._on_late = flights, on_late
        self._heap: list[tuple[float, int]] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, until: float, id: int) -> None:
        """Watch one."""
        heap = self._heap
        if len(heap) > 4 * len(self._flights) + _SMALL:
            heap[:] = [(each.until, id) for id, each in self._flights.items() if each.until != math.inf]
            heapq.heapify(heap)
        heapq.heappush(heap, (until, id))
        if self._timer is None or until < self._due - SWEEP_S:
            self._set()

    def close(self) -> None:
        """Tell nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic()
        wait_s = max(SWEEP_S, self._heap[0][0] - now)
        self._due = now + wait_s
        self._timer = self._loop.call_later(wait_s, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, id = heapq.heappop(self._heap)
            flight = self._flights.get(id)
            if flight is not None and flight.until <= now:
                self._on_late(id)
        if self._heap and self._timer is None:
            self._set()
