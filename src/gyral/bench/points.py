"""An operating point: what a server did at one rate. A run has one, a ramp one a step.

Points are lines of type `operating_point` in the run's `metrics.jsonl`, so that whoever plans reads there what a rate costs:
`offered_per_s` → `latency`, `goodput`, `cpu_s_per_request`. Only points with `is_valid` say something of the server.

Latencies are of answers with a status of 2xx, and of requests that timed out, which count with what they waited: leaving them
out would make a server look better the longer it stands still. A percentile is told when the samples bound it from above with
97.5 % confidence, taken as independent, which at a high load they are not quite: then the interval is too narrow.
"""

from __future__ import annotations

import math
from collections import Counter

import msgspec
import numpy as np

from gyral.bench.record import NAMES, OK, REFUSED, TIMEOUT, Record
from gyral.bench.traffic import Traffic

CONFIDENCE = 1.96
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}


class Spread(msgspec.Struct, frozen=True):
    """Percentiles in milliseconds; None where there are too few samples. `p99_interval_ms` is its 95 % interval."""

    num_samples: int
    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None
    p99_interval_ms: tuple[float, float] | None = None


class OperatingPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a server did at one rate.

    `achieved_per_s` counts 2xx until the last answer; `good_per_s` those within their deadline, `goodput` as share of all that
    were due. `errors` are by kind, refusals by status. `lateness` is how long after a request was due the generator came to it,
    `late_share` the share of those later than `late_ms`; `waited_share` of those that no connection was free for.
    """

    offered_per_s: float
    achieved_per_s: float
    good_per_s: float
    goodput: float
    seconds: float
    num_requests: int
    num_ok: int
    errors: dict[str, int]
    latency: Spread
    since_sent: Spread
    first_token: Spread | None = None
    between_tokens: Spread | None = None
    tokens_per_s: float | None = None
    cpu_s_per_request: float | None = None
    cpu_source: str = ""
    usd_per_1000: float | None = None
    lateness: Spread
    late_share: float
    waited_share: float
    generator_cpu_us: float
    generator_cores: float
    num_connections: int
    most_open: int
    load: float
    is_valid: bool
    why: str = ""


def needed(quantile: float) -> int:
    """Samples from which a quantile is told: the chance that all lie below it is 2.5 %.

    Notes
    -----
    **Source**: order statistics as bounds of a quantile, Conover, *Practical Nonparametric Statistics*, 3.2.
    """
    return math.ceil(math.log(0.025) / math.log(quantile))


def spread(samples_ms: np.ndarray) -> Spread:
    """Percentiles of samples, by nearest rank."""
    count = len(samples_ms)
    if not count:
        return Spread(0)
    ordered = np.sort(samples_ms)

    def rank(place: float) -> float:
        return round(float(ordered[min(max(math.ceil(place - 1e-9) - 1, 0), count - 1)]), 4)

    told = {name: rank(share * count) for name, share in QUANTILES.items() if count >= needed(share)}
    interval = None
    if "p99_ms" in told:
        around = CONFIDENCE * math.sqrt(count * 0.99 * 0.01)
        interval = (rank(0.99 * count - around), rank(0.99 * count + around + 1))
    mean = round(float(ordered.mean()), 4)
    return Spread(num_samples=count, mean_ms=mean, max_ms=rank(count), p99_interval_ms=interval, **told)


def latencies_s(traffic: Traffic, record: Record) -> np.ndarray:
    """Seconds from due to done of what counts, in the order of the requests."""
    outcome = np.frombuffer(record.outcome, np.uint8)
    taken = np.frombuffer(record.done_s) - traffic.due_s
    counted: np.ndarray = taken[(outcome == OK) | (outcome == TIMEOUT)]
    return counted


def errors(record: Record) -> dict[str, int]:
    """How many requests failed how, most first."""
    outcome = np.frombuffer(record.outcome, np.uint8)
    counts = Counter(
        {NAMES[kind]: int(number) for kind, number in enumerate(np.bincount(outcome)) if kind > REFUSED and number}
    )
    status = np.frombuffer(record.status, np.uint16)[outcome == REFUSED]
    counts.update({f"status {code}": number for code, number in Counter(status.tolist()).items()})
    return dict(counts.most_common())


def operating_point(
    traffic: Traffic,
    record: Record,
    seconds: float,
    *,
    late_ms: float,
    max_late: float,
    load: float = 0.0,
    cpu_s: float | None = None,
    cpu_source: str = "",
    usd_per_core_hour: float = 0.0,
) -> OperatingPoint:
    """Sum a run up.

    Parameters
    ----------
    seconds : how long requests were due.
    cpu_s : CPU time that the server took meanwhile, None: not known; `cpu_source` says how.
    load : of the machine, before.
    """
    outcome = np.frombuffer(record.outcome, np.uint8)
    reached, sent, done = (np.frombuffer(each) for each in (record.reached_s, record.sent_s, record.done_s))
    is_ok = outcome == OK
    taken = done - traffic.due_s
    num_ok, count = int(is_ok.sum()), len(record)
    lasted = max(seconds, float(done.max()))
    num_good = int((is_ok & (taken <= traffic.deadline_s)).sum())
    late = 1e3 * np.maximum(reached - traffic.due_s, 0.0)
    late_share = float((late > late_ms).mean())
    each = cpu_s / num_ok if cpu_s is not None and num_ok else None
    tokens = int(np.frombuffer(record.tokens, np.uint32)[is_ok].sum())
    first = 1e3 * (np.frombuffer(record.first_s) - traffic.due_s)[is_ok]
    why = ""
    if late_share > max_late:
        why = f"the generator was late: {100 * late_share:.1f} % of requests by more than {late_ms:g} ms"
    return OperatingPoint(
        offered_per_s=round(count / seconds, 3),
        achieved_per_s=round(num_ok / lasted, 3),
        good_per_s=round(num_good / lasted, 3),
        goodput=round(num_good / count, 6),
        seconds=round(lasted, 3),
        num_requests=count,
        num_ok=num_ok,
        errors=errors(record),
        latency=spread(1e3 * latencies_s(traffic, record)),
        since_sent=spread(1e3 * (done - sent)[is_ok]),
        first_token=spread(first[np.isfinite(first)]) if traffic.is_stream else None,
        between_tokens=spread(1e3 * np.frombuffer(record.gaps_s)) if traffic.is_stream else None,
        tokens_per_s=round(tokens / lasted, 3) if traffic.is_stream else None,
        cpu_s_per_request=each,
        cpu_source=cpu_source,
        usd_per_1000=1e3 * each * usd_per_core_hour / 3600 if each is not None and usd_per_core_hour else None,
        lateness=spread(late),
        late_share=round(late_share, 6),
        waited_share=round(float(((sent - reached > 0) | np.isnan(sent)).mean()), 6),
        generator_cpu_us=round(1e6 * record.cpu_s / count, 2),
        generator_cores=round(record.cpu_s / lasted, 3),
        num_connections=record.num_connections,
        most_open=record.most_open,
        load=round(load, 2),
        is_valid=not why,
        why=why,
    )


def holds(point: OperatingPoint) -> bool:
    """Whether a server keeps up at a rate: 99 % are answered in time, and as fast as they come, give or take 5 %."""
    return point.goodput >= 0.99 and point.achieved_per_s >= 0.95 * point.offered_per_s


def curve(samples_ms: np.ndarray, per_decade: int = 8) -> list[tuple[float, float]]:
    """Percentiles as HDR histograms draw them: (nines, ms), where 2 nines are the 99th percentile."""
    count = len(samples_ms)
    if not count:
        return []
    ordered = np.sort(samples_ms)
    nines = np.arange(0.0, math.log10(count) + 1e-9, 1 / per_decade)
    places = np.clip(np.ceil(count * (1 - 10.0**-nines) - 1e-9).astype(int) - 1, 0, count - 1)
    points = [(round(float(at), 4), round(float(ordered[place]), 4)) for at, place in zip(nines, places, strict=True)]
    return [*points, (round(math.log10(count), 4), round(float(ordered[-1]), 4))]


def histogram(samples_ms: np.ndarray) -> list[tuple[float, float, int]]:
    """How many samples lie between 1, 2, 5, 10, 20, … of ms: (from, to, number), without empty ones at the ends."""
    edges = np.array([unit * 10.0**power for power in range(-3, 6) for unit in (1, 2, 5)])
    counts, _ = np.histogram(np.clip(samples_ms, edges[0], edges[-1]), edges)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return []
    return [
        (float(f"{edges[at]:.6g}"), float(f"{edges[at + 1]:.6g}"), int(counts[at])) for at in range(filled[0], filled[-1] + 1)
    ]


def second_by_second(traffic: Traffic, record: Record, seconds: float, most: int = 120) -> list[dict[str, float | int | None]]:
    """Requests due in each second (or more, so that there are at most 120 rows): how many, how many answered, p50 and worst."""
    width = max(1.0, math.ceil(seconds / most))
    outcome = np.frombuffer(record.outcome, np.uint8)
    taken = 1e3 * (np.frombuffer(record.done_s) - traffic.due_s)
    counts = (outcome == OK) | (outcome == TIMEOUT)
    place = (traffic.due_s / width).astype(int)
    rows: list[dict[str, float | int | None]] = []
    for at in range(int(place[-1]) + 1):
        here = place == at
        times = taken[here & counts]
        known = len(times) > 0
        rows.append(
            {
                "t": at * width,
                "due": int(here.sum()),
                "ok": int((outcome[here] == OK).sum()),
                "p50_ms": round(float(np.median(times)), 4) if known else None,
                "max_ms": round(float(times.max()), 4) if known else None,
            }
        )
    return rows
