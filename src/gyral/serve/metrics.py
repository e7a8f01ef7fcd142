"""What a server did, as Prometheus reads it: `GET /metrics`.

Counting is an addition to an array (.3 µs a request); names, labels and text are made when somebody reads. Latency is counted
in the buckets of one table, from 0.1 ms to 100 s, five a decade.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gyral.errors import MissingExtra
from gyral.http import Receive, Scope, Send, allow

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

EDGES_S = tuple(10 ** (power / 5) for power in range(-20, 11))
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)

MAX_ROUTES = 100
OTHER = "other"
"""What further routes are counted under."""


class Histogram:
    """Counts by upper edge, and the sum."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges, self.counts, self.total = edges, [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float:
        """The upper edge of the bucket that holds this quantile; NaN without a value."""
        rest = share * sum(self.counts)
        if not rest:
            return math.nan
        for edge, count in zip((*self.edges, math.inf), self.counts, strict=True):
            rest -= count
            if rest <= 0:
                return edge
        return math.inf


class Gauge(NamedTuple):
    """A value of now: what it says, and by label what it is. `is_total`: it only grows."""

    help: str
    label: str
    values: Mapping[str, float]
    is_total: bool = False


class Metrics:
    """Of one server.

    Parameters
    ----------
    gauges : name → what is read when somebody asks.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, Gauge]] = dict) -> None:
        self.gauges = gauges
        self.seconds: dict[str, Histogram] = {}
        self.statuses: dict[tuple[str, int], int] = {}
        self.batches: dict[str, Histogram] = {}
        self.batch_s: dict[str, Histogram] = {}
        self.tiers: dict[str, int] = {}

    def of_tier(self, name: str) -> None:
        """Count a request of a class of devices."""
        self.tiers[name] = self.tiers.get(name, 0) + 1

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer of any kind."""
        found = self.seconds.get(route)
        if found is None:
            if len(self.seconds) >= MAX_ROUTES:  # below a prefix there are as many paths as clients can think of
                route = OTHER
            found = self.seconds.setdefault(route, Histogram(EDGES_S))
        found.add(seconds)
        self.statuses[route, status] = self.statuses.get((route, status), 0) + 1

    def batch(self, variant: str, size: int, seconds: float) -> None:
        """Count a batch."""
        if variant not in self.batches:
            self.batches[variant], self.batch_s[variant] = Histogram(SIZES), Histogram(EDGES_S)
        self.batches[variant].add(size)
        self.batch_s[variant].add(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format.

        Raises
        ------
        MissingExtra : prometheus-client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, generate_latest
        except ImportError:
            raise MissingExtra("prometheus-client", "serve", "metrics") from None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        yield _family("gyral_request_seconds", "from the whole request to its answer", "route", self.seconds)
        requests = CounterMetricFamily("gyral_requests", "answers", labels=("route", "status"))
        for (route, status), count in self.statuses.items():
            requests.add_metric((route, str(status)), count)
        yield requests
        by_tier = CounterMetricFamily("gyral_tier_requests", "requests of models by class of devices", labels=("tier",))
        for tier, count in self.tiers.items():
            by_tier.add_metric((tier,), count)
        yield by_tier
        yield _family("gyral_batch_size", "requests computed together", "variant", self.batches)
        yield _family("gyral_batch_seconds", "from giving a batch to a worker to its last answer", "variant", self.batch_s)
        for name, gauge in self.gauges().items():
            kind = CounterMetricFamily if gauge.is_total else GaugeMetricFamily
            family = kind(name, gauge.help, labels=(gauge.label,) if gauge.label else ())
            for label, value in gauge.values.items():
                family.add_metric((label,) if gauge.label else (), value)
            yield family

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """`GET /metrics`."""
        allow(scope, "GET")
        body = self.text()
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _family(name: str, help: str, label: str, found: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    family = HistogramMetricFamily(name, help, labels=(label,))
    for which, histogram in found.items():
        rows, total = [], 0
        for edge, count in zip((*histogram.edges, math.inf), histogram.counts, strict=True):
            total += count
            rows.append(("+Inf" if edge == math.inf else f"{edge:.6g}", total))
        family.add_metric((which,), rows, histogram.total)
    return family
