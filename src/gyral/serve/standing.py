"""How a server with workers stands: for the run's record, and for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gyral.serve.cache import Counts
from gyral.serve.gateway import Gateway
from gyral.serve.metrics import Gauge
from gyral.serve.pool import Pool


def state(pool: Pool, gateway: Gateway, cache: Counts) -> dict[str, Any]:
    """For the record."""
    return {
        "waiting": gateway.waiting,
        "in_flight": gateway.in_flight,
        "not_answered": gateway.not_answered(),
        "cache": {"hits": cache.hits + cache.shared, "misses": cache.misses, "bytes": cache.num_bytes},
        "workers": [each._asdict() for each in pool.loads()],
        "chosen": {each: choice.explain() for each, choice in gateway.choices().items()},
        "cascade": {each: {"told": first.explain(), **first.counts} for each, first in gateway.cascades().items()},
    }


def gauges(pool: Pool, gateway: Gateway, cache: Counts, models: Mapping[str, str]) -> dict[str, Gauge]:
    """For Prometheus.

    Parameters
    ----------
    models : name → version `name@n`.
    """
    loads = pool.loads()
    versions = {name: float(each.rpartition("@")[2]) for name, each in models.items()}
    firsts = gateway.cascades().values()
    asked_first = {how: sum(each.counts[how] for each in firsts) for how in ("kept", "escalated", "late") if firsts}

    def of_workers(field: str) -> dict[str, float]:
        return {str(each.number): getattr(each, field) for each in loads}

    return {
        "gyral_waiting": Gauge("requests that wait for a worker", "", {"": gateway.waiting}),
        "gyral_in_flight": Gauge("requests that have no answer yet", "", {"": gateway.in_flight}),
        "gyral_not_answered": Gauge("refused or given up, by why", "why", gateway.not_answered(), True),
        "gyral_worker_resident_bytes": Gauge("memory", "worker", of_workers("resident_bytes")),
        "gyral_worker_busy": Gauge("share of the time that it computes", "worker", of_workers("busy")),
        "gyral_worker_deaths": Gauge("how often it was replaced", "worker", of_workers("deaths"), True),
        "gyral_cache_hits": Gauge("answers that were told again", "", {"": cache.hits}, True),
        "gyral_cache_misses": Gauge("answers that were not kept", "", {"": cache.misses}, True),
        "gyral_cache_bytes": Gauge("of answers that are kept", "", {"": cache.num_bytes}),
        "gyral_cascade": Gauge("answers where a small variant was asked first, by how it went", "how", asked_first, True),
        "gyral_model_version": Gauge("of the models that answer", "model", versions),
    }
