"""How many copies there should be: a pure function of what was measured, so that it can be replayed and argued about.

Wanted is what carries the rate at `TARGET` of capacity, and clears the backlog within `DRAIN_S`. Up at once, by the highest of
the last `UP_S` (a burst costs answers); down only to the highest that was wanted in all of the last `DOWN_S` (a copy costs
seconds to start and cents to keep), and never right after going up. The rate is followed ahead by its slope over the time a
copy needs to start, so a morning that climbs is met, not chased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from gyral.serve.scheduling.cost import Cost

TARGET: Final = 0.7
DRAIN_S: Final = 5.0
UP_S: Final = 3.0
DOWN_S: Final = 60.0


class Sample(NamedTuple):
    """A moment: requests a second that came, those that waited, and copies that answered."""

    at: float
    rate: float
    backlog: float
    replicas: int


class Scale(NamedTuple):
    """How many copies, and why."""

    replicas: int
    why: str


def wanted(sample: Sample, capacity: float, ahead: float = 0.0) -> int:
    """Copies for one moment; `capacity` is of one copy within the deadline, `ahead` how much the rate will have grown."""
    demand = max(0.0, sample.rate + max(0.0, ahead)) / TARGET + sample.backlog / DRAIN_S
    return math.ceil(demand / capacity - 1e-9)


def capacity_of(cost: Cost, deadline_s: float) -> float:
    """Requests a second that one copy answers in time; a batch lasts half the deadline, since one may wait for another."""
    return cost.rate(max(1, cost.fits(deadline_s / 2)))


def scale(
    series: Sequence[Sample],
    capacity: float,
    *,
    least: int = 1,
    most: int = 16,
    start_s: float = 5.0,
    down_s: float = DOWN_S,
) -> Scale:
    """Decide from the samples of at least the last `down_s` seconds, oldest first.

    Parameters
    ----------
    capacity : requests a second of one copy.
    start_s : seconds until a new copy answers.

    Raises
    ------
    ValueError : there is no sample, or `capacity` is not positive.
    """
    if not series or not capacity > 0:
        raise ValueError(f"{len(series)} samples and a capacity of {capacity} decide nothing")
    last = series[-1]
    recent = [each for each in series if each.at >= last.at - UP_S]
    window = max(UP_S, 2 * start_s)
    slope = _slope([each for each in series if each.at >= last.at - window])
    up = max(wanted(each, capacity, slope * start_s) for each in recent)
    now = last.replicas
    if up > now:
        count = min(most, max(least, up))
        told = f"{last.rate:,.0f}/s, {slope:+,.0f}/s each second, {last.backlog:,.0f} waiting; a copy carries {capacity:,.0f}/s"
        return Scale(count, told if count == up else f"{told}; {up} would be needed, at most {most} are allowed")
    kept = [each for each in series if each.at >= last.at - down_s]
    if last.at - kept[0].at < 0.9 * down_s or any(each.replicas < now for each in kept):
        return Scale(min(most, max(least, now)), f"waits: less only after {down_s:g} s without need")
    down = min(now, max(least, max(wanted(each, capacity) for each in kept)))
    if down < now:  # what a climb made it ask for counts too, or a rate that swings would make copies come and go
        trends = (_slope([each for each in series if at - window <= each.at <= at]) for at in (each.at for each in kept))
        ahead = max(wanted(each, capacity, trend * start_s) for each, trend in zip(kept, trends, strict=True))
        down = min(now, max(least, ahead))
    if down < now:
        return Scale(min(most, down), f"not more than {down} were needed for {down_s:g} s")
    return Scale(min(most, max(least, now)), f"{last.rate:,.0f}/s: {now} are right")


def _slope(series: Sequence[Sample]) -> float:
    """Least squares of the rate over time, 0 for fewer than three samples, or for one that is lost in its own noise."""
    if len(series) < 3:
        return 0.0
    mean_at = sum(each.at for each in series) / len(series)
    mean = sum(each.rate for each in series) / len(series)
    spread = sum((each.at - mean_at) ** 2 for each in series)
    if spread <= 0:
        return 0.0
    slope = sum((each.at - mean_at) * (each.rate - mean) for each in series) / spread
    rest = sum((each.rate - mean - slope * (each.at - mean_at)) ** 2 for each in series) / (len(series) - 2)
    return slope if slope * slope * spread > 9 * rest else 0.0
