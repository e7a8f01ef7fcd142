"""How much answers a population within a limit: what a pod holds, then how many pods in each region, with one region lost.

What a pod holds is found by simulation, the highest rate at which its p99 keeps the limit, by halving; all rates are tried on
the same people. A region must also carry its share of whichever region is lost, at the worst minute of the day for that pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gyral.errors import UsageError
from gyral.plan.figure import Figure, weakest
from gyral.plan.service import Work
from gyral.plan.simulate import Outcome, Replica, Rules, Scaling, Seed, Traffic, batching, first_come, stages, tokens
from gyral.plan.spread import Spread
from gyral.plan.traffic import Population

REQUESTS = 200_000
"""Of a trial: the p99 is then known to some 2 %."""
HALVINGS = 12
BUSIEST = 0.98
"""No plan counts on more of the workers: a queue that only grows stays short in a trial that is short enough."""


class Pod(NamedTuple):
    """Workers behind one queue: what each does, how many there are, cores of each, and what is before them."""

    work: Work
    workers: int = 1
    cores: float = 1.0
    rules: Rules = Rules()

    def play(self, traffic: Traffic, seed: Seed, scaling: Scaling | None = None, warm_s: float = 0.0) -> Outcome:
        """A pod under a traffic."""
        work = self.work
        if work.max_batch > 1:
            return batching(
                traffic, work.fixed_s.value, work.each_s.value, self.workers, noise=work.noise, hop=work.hop, cold=work.cold,
                max_batch=work.max_batch, rules=self.rules, warm_s=warm_s, seed=seed,
            )  # fmt: skip
        service = work.noise.scaled(work.alone_s.value)
        return first_come(traffic, service, self.workers, rules=self.rules, scaling=scaling, warm_s=warm_s, seed=seed)

    @property
    def most_per_s(self) -> float:
        """Requests a second when all workers are always busy."""
        work = self.work
        full = work.fixed_s.value + work.each_s.value * work.max_batch
        misses = 1 - self.rules.hit_share if work.max_batch == 1 else 1.0
        return self.workers * work.max_batch / full / max(misses, 1e-9)


class Need(NamedTuple):
    """What a population needs.

    Attributes
    ----------
    pod_per_s : what one pod holds.
    pods : of each region, with the spare.
    spare : pods of all regions that only the loss of a region needs.
    peak_per_s : the worst rate of each region, with its share of a lost one.
    total : pods; its interval is by the seconds of work.
    cores : of all pods.
    """

    pod_per_s: Figure
    pods: dict[str, int]
    spare: int
    peak_per_s: dict[str, float]
    total: Figure
    cores: Figure


def highest_rate(strain: Callable[[float], float], most: float) -> float:
    """The highest rate at which `strain` is at most 1, up to `most`; 0 when no rate above a thousandth of it is.

    Parameters
    ----------
    strain : rate → what is asked over what is allowed; it rises with the rate.
    """
    low, high = 0.0, most
    if strain(most) <= 1:
        return most
    if strain(most / 1_000) <= 1:
        low = most / 1_000
    else:
        return 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if strain(middle) <= 1 else (low, middle)
    return low


def capacity(pod: Pod, p99_s: float, *, seed: int = 0, most_lost: float = 0.01) -> Figure:
    """Requests a second at which 99 of 100 answers come within `p99_s`, and no more than `most_lost` are refused.

    Returns
    -------
    Its interval is by the interval of the seconds of work.

    Raises
    ------
    UsageError : a request by itself takes too long.
    """

    def held(factor: float) -> float:
        each = pod._replace(work=pod.work.scaled(factor))

        def strain(rate: float) -> float:
            outcome = each.play(Traffic.steady(rate, REQUESTS / rate), seed, warm_s=0.05 * REQUESTS / rate)
            lost = outcome.refused / max(outcome.came, 1)
            p99 = outcome.sojourns.quantile(0.99)
            return max((p99 if p99 == p99 else math.inf) / p99_s, lost / most_lost)

        return highest_rate(strain, BUSIEST * each.most_per_s)

    alone = pod.work.alone_s
    low, high = (bound / alone.value for bound in alone.interval)
    value = held(1.0)
    if not value:
        why = f"a request by itself takes {1e3 * alone.value:.3g} ms on average"
        raise UsageError(f"no pod holds a p99 of {1e3 * p99_s:g} ms", why=why, hint="a longer limit, or faster work")
    worst, best = (held(high), held(low)) if high > low else (value, value)
    return Figure(value, "1/s", alone.by, f"simulated; {alone.why}", min(worst, value), max(best, value))


def row_capacity(row: Sequence[tuple[Work, int]], p99_s: float, *, seed: int = 0) -> Figure:
    """Requests a second of stages in a row (retrieval, ranking: each its work, and workers) within a limit for the whole.

    Raises
    ------
    UsageError : no rate is held.
    """
    served = [(work.noise.scaled(work.alone_s.value), workers) for work, workers in row]
    most = BUSIEST * min(workers / spread.mean for spread, workers in served)

    def strain(rate: float) -> float:
        spent = stages(Traffic.steady(rate, REQUESTS / rate), served, seed=seed, warm_s=0.05 * REQUESTS / rate)
        return spent.quantile(0.99) / p99_s

    value = highest_rate(strain, most)
    if not value:
        raise UsageError(f"these stages hold no p99 of {1e3 * p99_s:g} ms", hint="a longer limit, or faster stages")
    return Figure(value, "1/s", weakest(*(work.alone_s for work, _ in row)), f"simulated; {len(row)} stages in a row")


def replica_capacity(
    replica: Replica, prompts: Spread, answers: Spread, *, first_s: float, between_s: float, most: float, seed: int = 0,
    requests: int = 20_000,
) -> float:  # fmt: skip
    """Requests a second of a language model's replica with p99s to the first token and from token to token within limits.

    Parameters
    ----------
    most : a rate that is too high, where the search begins.
    """

    def strain(rate: float) -> float:
        told = tokens(Traffic.steady(rate, requests / rate), replica, prompts, answers, seed=seed)
        lost = told.refused / max(told.answered + told.refused, 1)
        return max(told.first.quantile(0.99) / first_s, told.between.quantile(0.99) / between_s, lost / 0.01)

    return highest_rate(strain, most)


def need(population: Population, pod: Pod, p99_s: float, *, survives: bool = True, head: float = 0.0, seed: int = 0) -> Need:
    """Pods of each region.

    Parameters
    ----------
    survives : carry the requests of any one region that is lost.
    head : share of a pod's capacity that is left free, for a pod that fails or is being replaced.

    Raises
    ------
    UsageError : no rate is held, or `head` leaves nothing.
    """
    if not 0 <= head < 1:
        raise UsageError(f"{head:g} is no share to leave free", hint="0 ≤ head < 1")
    holds = capacity(pod, p99_s, seed=seed)
    rates = {each.name: population.rates(each, seed=seed) for each in population.regions}
    own = {name: float(each.max()) for name, each in rates.items()}
    worst = dict(own)
    shares = {each.name: each.share for each in population.regions}
    if survives and len(rates) > 1:
        for lost, gone in rates.items():
            for name, each in rates.items():
                if name != lost:
                    worst[name] = max(worst[name], float((each + gone * shares[name] / (1 - shares[lost])).max()))

    def pods_of(per_s: float, peak: dict[str, float]) -> dict[str, int]:
        return {name: math.ceil(rate / (per_s * (1 - head)) - 1e-9) for name, rate in peak.items()}

    pods = pods_of(holds.value, worst)
    few, many = (sum(pods_of(per_s, worst).values()) for per_s in reversed(holds.interval))
    total = sum(pods.values())
    spare = total - sum(pods_of(holds.value, own).values())
    by = weakest(holds, population.per_day)
    size = pod.workers * pod.cores
    return Need(
        holds, pods, spare, worst, Figure(total, "pods", by, holds.why, few, many),
        Figure(total * size, "cores", by, holds.why, few * size, many * size),
    )  # fmt: skip
