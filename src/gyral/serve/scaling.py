"""As many workers as the load asks for: measured each second, decided by `scheduling.autoscale`, done by the pool.

A worker that goes answers what it has; one that comes takes seconds, which are measured, to look as far ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gyral.errors import GyralError
from gyral.serve.gateway import Gateway
from gyral.serve.pool import Pool
from gyral.serve.scheduling.autoscale import DOWN_S, Sample, Scale, scale

EVERY_S = 1.0
START_S = 5.0
"""What a worker takes to be ready, until one was started."""


class Scaler:
    """Keeps the number of workers.

    Parameters
    ----------
    least, most : of workers.
    note : told of each change, and why.
    """

    def __init__(
        self, pool: Pool, gateway: Gateway, least: int, most: int, note: Callable[[str], None], *, down_s: float = DOWN_S,
        every_s: float = EVERY_S,
    ) -> None:  # fmt: skip
        self._pool, self._gateway, self._least, self._most, self._note = pool, gateway, least, max(least, most), note
        self._down_s, self._every_s, self._start_s = down_s, every_s, START_S
        self._series: list[Sample] = []
        self.last = Scale(least, "nothing was measured yet")

    async def keep(self) -> None:
        """Measure, decide and resize, for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    async def look(self) -> None:
        """Once."""
        now, demand, workers = time.monotonic(), self._gateway.demand(), self._pool.num_ready
        if not workers:
            return
        self._series.append(Sample(now, demand.rate, demand.waiting, workers))
        self._series = [each for each in self._series if each.at >= now - max(self._down_s, 2 * self._start_s)]
        self.last = scale(
            self._series, demand.capacity, least=self._least, most=self._most, start_s=self._start_s, down_s=self._down_s
        )
        if self.last.replicas == workers:
            return
        self._note(f"serve    {workers} to {self.last.replicas} workers: {self.last.why}")
        try:
            await self._pool.resize(self.last.replicas)
        except GyralError as error:  # those that are there go on
            self._note(f"serve    the number of workers stays: {error}")
            return
        if self.last.replicas > workers:
            self._start_s += 0.5 * (time.monotonic() - now - self._start_s)
