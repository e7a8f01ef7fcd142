"""What a server did since the last look, as one line of the run's `metrics.jsonl`: what the pages draw.

A line is written when something was asked since the one before, and once a minute else: a server that idles writes nothing to
speak of, a busy one 25 MB a day.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from gyral.serve.metrics import EDGES_S, Histogram, Metrics

EVERY_S = 2.0
IDLE_S = 60.0


class Stats:
    """Makes lines.

    Parameters
    ----------
    state : what else is said of now, such as workers and queues.
    """

    def __init__(self, metrics: Metrics, state: Callable[[], Mapping[str, Any]] = dict) -> None:
        self._metrics, self._state = metrics, state
        self._began = self._last_at = time.monotonic()
        self._last: list[int] = [0] * (len(EDGES_S) + 1)

    async def keep(self, write: Callable[[dict[str, Any]], None]) -> None:
        """Write lines, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            idle = sum(self._counts()) == sum(self._last)
            if not idle or time.monotonic() - self._last_at >= IDLE_S:
                write(self.line())

    def line(self) -> dict[str, Any]:
        """What was done since the last line, and in all."""
        now, counts = time.monotonic(), self._counts()
        recent = Histogram(EDGES_S)
        recent.counts = [each - before for each, before in zip(counts, self._last, strict=True)]
        num, past = sum(recent.counts), max(now - self._last_at, 1e-9)
        self._last, self._last_at = counts, now
        statuses: dict[str, int] = {}
        for (_, status), count in self._metrics.statuses.items():
            statuses[str(status)] = statuses.get(str(status), 0) + count
        return {
            "t": round(now - self._began, 1),
            "requests": sum(counts),
            "per_s": round(num / past, 2),
            **{f"{name}_ms": _ms(recent.quantile(share)) for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))},
            "statuses": statuses,
            "latency_ms": _rows(EDGES_S, counts, 1e3),
            "batches": {name: _rows(each.edges, each.counts, 1) for name, each in self._metrics.batches.items()},
            "tiers": dict(self._metrics.tiers),
            "answered_by": {name: int(each.total) for name, each in self._metrics.batches.items()},
            **self._state(),
        }

    def _counts(self) -> list[int]:
        """Over all routes, by latency."""
        every = [each.counts for each in self._metrics.seconds.values()]
        return [sum(column) for column in zip(*every, strict=True)] if every else [0] * (len(EDGES_S) + 1)


def _ms(seconds: float) -> float | None:
    """Milliseconds of an edge; None where nothing was asked, or it took longer than the last edge."""
    return float(f"{1e3 * seconds:.3g}") if math.isfinite(seconds) else None


def _rows(edges: tuple[float, ...], counts: list[int], scale: float) -> list[tuple[float | None, int]]:
    """Upper edge (None: beyond the last) and count, of buckets that are not empty."""
    named = [float(f"{scale * edge:.3g}") for edge in edges]
    return [(edge, count) for edge, count in zip([*named, None], counts, strict=True) if count]
