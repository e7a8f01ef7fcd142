"""Who asks, where and when: from users of the world to requests a second of a pod, and a day of them played through.

A region's requests are a Poisson process whose rate follows its clock. Split by chance over n equal pods it is n independent
processes of a n-th of the rate, so a few pods tell of all: 1 in 100 is simulated over all hours, fewer where the p99 is known
to 5 % before. Bursts are the exception: they come to all pods of a region at once, so they belong to the rate.

Source: thinning, Lewis and Shedler 1979; the interval of a quantile from clusters within strata, Woodruff 1952.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gyral.engine.base import num_cores
from gyral.errors import UsageError
from gyral.plan.day import local_day
from gyral.plan.figure import FOUR_OF_FIVE, By, Figure, weakest
from gyral.plan.product import product
from gyral.plan.simulate import Outcome, Traffic
from gyral.plan.times import Times, edges

DAY_S = 86_400.0
ENOUGH = 0.05
FEWEST_PODS = 8
CONFIDENCE = 1.96


class Region(NamedTuple):
    """People on one clock.

    Attributes
    ----------
    share : of all users.
    utc_offset_h : hours that their clocks are ahead of UTC.
    hours : heights of their day from midnight, evenly spaced; empty: a round one (`day.py`).
    """

    name: str
    share: float
    utc_offset_h: float = 0.0
    hours: tuple[float, ...] = ()


class Device(NamedTuple):
    """What people hold: the share of requests from it, and how many of those a server answers; the rest it answers itself."""

    name: str
    share: float
    served: float = 1.0


class Bursts(NamedTuple):
    """Spells of `factor` times the rate, `per_day` of them in a region, `lasts_s` each, at times drawn from the seed."""

    factor: float = 1.0
    per_day: int = 0
    lasts_s: float = 600.0


class Population(NamedTuple):
    """Users and what they do.

    Attributes
    ----------
    users : of a day.
    per_user : requests of one of them in a day.
    """

    users: Figure
    per_user: Figure
    regions: Sequence[Region] = (Region("world", 1.0),)
    devices: Sequence[Device] = (Device("any", 1.0),)
    bursts: Bursts = Bursts()

    @property
    def per_day(self) -> Figure:
        """Requests of a day that reach a server."""
        served = Figure(sum(each.share * each.served for each in self.devices), by="counted")
        return product("1/day", "users · requests · served", self.users, self.per_user, served)

    def rates(self, region: Region, step_s: float = 60.0, *, seed: int = 0) -> np.ndarray:
        """Requests a second of a region in each step of a day in UTC, float64 [day / step_s].

        Raises
        ------
        UsageError : shares do not add up to 1, or steps do not fill a day.
        """
        self._check()
        num = round(DAY_S / step_s)
        if num < 1 or abs(num * step_s - DAY_S) > 1e-6:
            raise UsageError(f"steps of {step_s:g} s do not fill a day", hint="60 s, or another part of 86,400 s")
        heights = local_day((np.arange(num) + 0.5) / num, region.utc_offset_h, region.hours)
        rates = self.per_day.value / DAY_S * region.share * heights
        if self.bursts.per_day:
            rng = np.random.default_rng([seed, self.regions.index(region)])
            long = max(1, round(self.bursts.lasts_s / step_s))
            for begin in rng.integers(0, num, self.bursts.per_day):
                rates[begin : begin + long] *= self.bursts.factor
        return rates

    def peak(self, step_s: float = 60.0, *, seed: int = 0) -> dict[str, float]:
        """Most requests a second of each region."""
        return {each.name: float(self.rates(each, step_s, seed=seed).max()) for each in self.regions}

    def _check(self) -> None:
        for what, shares in (("regions", [r.share for r in self.regions]), ("devices", [d.share for d in self.devices])):
            if not shares or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                raise UsageError(f"the shares of {what} add up to {sum(shares):g}", hint="to 1, none below 0")


class Day(NamedTuple):
    """A day of all pods, told by some.

    Attributes
    ----------
    p99_s : of all requests of the day; its interval is by what pods differ in.
    regions : times of each, of the pods that were simulated.
    steps : of all pods of all regions, as `Outcome.steps`.
    num_pods, num_requests : simulated.
    """

    p99_s: Figure
    regions: dict[str, Times]
    steps: np.ndarray
    num_pods: int
    num_requests: int


PodOf = Callable[[Traffic, Sequence[int]], Outcome]
"""Plays a pod: its traffic, and the seed it has to use."""


def play(
    population: Population, pods: Mapping[str, int], pod: PodOf, *, share: float = 0.01, enough: float = ENOUGH,
    step_s: float = 60.0, seed: int = 0, threads: int = 0, by: By = "assumed",
) -> Day:  # fmt: skip
    """Play a day of some pods of every region.

    Parameters
    ----------
    pods : how many each region has.
    pod : plays one; two calls with equal seeds meet the same people.
    share : of the pods of a region that are simulated at most; eight where it has as many.
    enough : stop when the 95 % interval of the p99 is within this of it on either side.
    threads : 0: as many as cores.
    by : what the pods' seconds of work rest on.

    Raises
    ------
    UsageError : a region has no pods.
    """
    missing = [each.name for each in population.regions if pods.get(each.name, 0) < 1]
    if missing:
        raise UsageError(f"region `{missing[0]}` has no pods", hint="one or more in each region")
    most = {
        each.name: min(pods[each.name], max(FEWEST_PODS, math.ceil(share * pods[each.name]))) for each in population.regions
    }
    rates = {each.name: population.rates(each, step_s, seed=seed) / pods[each.name] for each in population.regions}
    names = [each.name for each in population.regions]
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    times: dict[str, Times] = {}
    steps = {name: np.zeros((round(DAY_S / step_s), 6)) for name in names}

    def one(place: tuple[int, int]) -> Outcome:
        return pod(Traffic(rates[names[place[0]]], step_s), [seed, *place])

    with ThreadPoolExecutor(threads or num_cores()) as pool:
        first, p99 = 0, Figure(math.nan)
        while first < max(most.values()):
            wave = range(first, first + FEWEST_PODS)
            places = [(region, number) for number in wave for region, name in enumerate(names) if number < most[name]]
            for (region, _), outcome in zip(places, pool.map(one, places), strict=True):
                name = names[region]
                found[name].append(outcome.sojourns.counts)
                times[name] = times[name] + outcome.sojourns if name in times else outcome.sojourns
                steps[name] += outcome.steps
            first += FEWEST_PODS
            p99 = quantile(found, pods, 0.99)._replace(by=weakest(population.users, population.per_user, Figure(0.0, by=by)))
            low, high = p99.interval
            if max(p99.value - low, high - p99.value) * CONFIDENCE / FOUR_OF_FIVE <= enough * p99.value:
                break
    whole = np.sum([steps[name] * (pods[name] / len(found[name])) for name in names], axis=0)
    came = int(sum(each[:, 0].sum() for each in steps.values()))
    return Day(p99, times, whole, sum(map(len, found.values())), came)


def quantile(found: Mapping[str, Sequence[np.ndarray]], pods: Mapping[str, int], share: float) -> Figure:
    """Seconds that a share of all requests took at most, from histograms of some pods of each region.

    Parameters
    ----------
    found : region → histograms, int64 [BINS] each.
    pods : region → how many there are.
    """
    whole = sum(np.sum(each, axis=0) * (pods[name] / len(each)) for name, each in found.items())
    all_times = Times(np.asarray(whole, np.float64), math.nan)
    at = all_times.quantile(share)
    total = float(np.sum(whole))
    variance = 0.0
    for name, each in found.items():
        weight = pods[name] / len(each)
        off = np.array([weight * (_below(counts, at) - share * counts.sum()) for counts in each])
        if len(each) > 1:
            left = 1 - len(each) / pods[name]
            variance += left * len(each) / (len(each) - 1) * float(((off - off.mean()) ** 2).sum())
        elif pods[name] > 1:
            variance = math.inf
    around = FOUR_OF_FIVE * math.sqrt(variance) / total if total else math.inf
    low, high = (all_times.quantile(min(max(share + sign * around, 0.0), 1.0)) for sign in (-1, 1))
    return Figure(at, "s", "assumed", f"{sum(map(len, found.values()))} pods simulated", low, high)


def _below(counts: np.ndarray, seconds: float) -> float:
    """How many took less."""
    return float(np.interp(seconds, edges(), np.concatenate([[0.0], np.cumsum(counts)])))
