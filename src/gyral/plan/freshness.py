"""The loop as a cost: bytes of events a day, how old what a model knows is, and how often it pays to train it again.

Rates and bytes an event are of `benchmarks/ingest/day.py`: synthetic events on two shared cores. They have an interval only
where two were measured; those of another machine and other events take their place.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gyral.errors import UsageError
from gyral.plan.figure import Figure, weakest
from gyral.plan.product import inverse, product

_DAY = "benchmarks/results/ingest_day.json, 2 shared cores"
LOG_BYTES = Figure(254.0, "bytes", "measured", f"an event in the log, bodies of 100; {_DAY}", low=81.0)
"""The low end is that of bodies of 1,000 (`log_append.json`)."""
LAKE_BYTES = Figure(49.6, "bytes", "measured", f"an event in the lake, compacted; {_DAY}")
EVENTS_PER_CPU_S = Figure(210_051.0, "1/s", "measured", f"durable events of a CPU-second; {_DAY}")
DRAIN_S = Figure(
    0.17, "s", "measured", "POST to readable row, p99 at 20,000/s: benchmarks/results/ingest_collect.json", low=0.15
)


class Volume(NamedTuple):
    """Events of a day: how many, bytes written to the log and kept in the lake, and cores that take them in, on average."""

    events: Figure
    log_bytes: Figure
    lake_bytes: Figure
    cores: Figure


class Cadence(NamedTuple):
    """How often to train.

    Attributes
    ----------
    every_s : between trainings.
    delay_s : from an event to the first answer that knows it, on average.
    usd_per_day : of training and of what is lost meanwhile.
    """

    every_s: Figure
    delay_s: Figure
    usd_per_day: Figure


def volume(
    requests: Figure, per_request: Figure, *, log_bytes: Figure = LOG_BYTES, lake_bytes: Figure = LAKE_BYTES,
    per_cpu_s: Figure = EVENTS_PER_CPU_S,
) -> Volume:  # fmt: skip
    """Events that answers cause.

    Parameters
    ----------
    requests : of a day.
    per_request : events of one: the answer itself, what is shown, what is clicked.
    """
    events = product("1/day", "requests · events of one", requests, per_request)
    return Volume(
        events,
        product("bytes/day", "events · bytes in the log", events, log_bytes),
        product("bytes/day", "events · bytes in the lake", events, lake_bytes),
        product(
            "cores", "events / (day · events of a CPU-second)", events, inverse(per_cpu_s), Figure(1 / 86_400, by="counted")
        ),
    )


def cadence(
    train_s: Figure, train_usd: Figure, loss_usd: Figure, *, publish_s: float = 1.0, drain_s: Figure = DRAIN_S
) -> Cadence:
    """The interval between trainings that costs least.

    Parameters
    ----------
    train_s, train_usd : of one training.
    loss_usd : what a day's age of the model costs in a day.

    Returns
    -------
    Never shorter than a training.

    Raises
    ------
    UsageError : one of them is not positive.

    Notes
    -----
    **Source**: the square root of Harris, *How many parts to make at once*, 1913: a model's age grows from what a training
    takes and is on average half the interval more.
    """
    if min(train_s.value, train_usd.value, loss_usd.value) <= 0:
        raise UsageError("a cadence needs a training that costs, and an age that does", hint="more than 0 each")
    best = product("s", "√(2 · training / loss of a day of age)", train_usd, inverse(loss_usd), Figure(2.0, by="counted"))
    low, high = (86_400 * math.sqrt(each) for each in best.interval)
    every = max(86_400 * math.sqrt(best.value), train_s.value)
    by = weakest(best, train_s, drain_s)
    low, high = max(low, train_s.interval[0]), max(high, train_s.interval[1])
    rest = train_s.value + publish_s + drain_s.value
    delay = Figure(every / 2 + rest, "s", by, "half the interval, training, swap, drain", low / 2 + rest, high / 2 + rest)
    usd = train_usd.value * 86_400 / every + loss_usd.value * delay.value / 86_400
    return Cadence(
        Figure(every, "s", by, best.why, low, high), delay, Figure(usd, "usd/day", by, "trainings and the model's age")
    )
