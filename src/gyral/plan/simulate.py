"""Servers in simulated time: what they are asked, what they answer, how long people waited.

Formulas of queues are for pruning only: Allen and Cunneen's overstates the mean wait of heavy tails by 19 to 125 %. Here
everything is played through, at some 10 million requests a second and core. Two calls with one seed see the same people with
the same luck, so the difference between two plans is due to the plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import MissingExtra, UsageError
from gyral.plan.cold import Cold
from gyral.plan.spread import Spread, exponential, fixed
from gyral.plan.times import BINS, Times, of_samples

MAX_WAITING = 1 << 16
POISSON = exponential(1.0)

Seed = int | Sequence[int]
"""Equal seeds are equal people with equal luck."""


class Traffic(NamedTuple):
    """Who comes.

    Attributes
    ----------
    rates : requests a second of each step, float64 [n].
    step_s : seconds of a step.
    gaps : between arrivals, mean 1; exponential: people who know nothing of each other.
    """

    rates: np.ndarray
    step_s: float
    gaps: Spread = POISSON

    @classmethod
    def steady(cls, rate: float, seconds: float, gaps: Spread = POISSON) -> Traffic:
        """One rate."""
        return cls(np.full(100, float(rate)), seconds / 100, gaps)


class Scaling(NamedTuple):
    """An autoscaler.

    Attributes
    ----------
    busy_share : share of the workers that it wants busy.
    lag, hold : steps from what is seen to a worker that works, and for which none is taken away again.
    least, most : workers.
    """

    busy_share: float
    lag: int = 1
    hold: int = 0
    least: int = 1
    most: int = 1 << 16


class Rules(NamedTuple):
    """A cache in front, and what is done about who waits too long.

    Attributes
    ----------
    hit_share, hit_s : of requests that a cache answers, in so long.
    deadline_s : when an answer is worth nothing.
    sheds : refuse who could not be answered in time.
    """

    hit_share: float = 0.0
    hit_s: float = 0.0
    deadline_s: float = math.inf
    sheds: bool = False


class Outcome(NamedTuple):
    """What became of the requests.

    Attributes
    ----------
    waits, sojourns : of those answered, after the warm-up.
    steps : float64 [n, 6]: came, refused, late, seconds in the system, workers, seconds of work of each step of time.
    step_s : seconds of a step.
    in_queue : mean number of who waits for a worker, as an area over time; NaN where it was not watched.
    batch : mean size of a batch.
    """

    waits: Times
    sojourns: Times
    steps: np.ndarray
    step_s: float
    in_queue: float = math.nan
    batch: float = 1.0

    @property
    def came(self) -> int:
        return int(self.steps[:, 0].sum())

    @property
    def refused(self) -> int:
        return int(self.steps[:, 1].sum())

    @property
    def late(self) -> int:
        return int(self.steps[:, 2].sum())

    @property
    def busy(self) -> float:
        """Share of the workers' seconds that is work."""
        return float(self.steps[:, 5].sum() / max(self.worker_s, 1e-300))

    @property
    def worker_s(self) -> float:
        """Seconds of workers that were held."""
        return float(self.steps[:, 4].sum() * self.step_s)


class TokenOutcome(NamedTuple):
    """What became of requests to a language model: seconds to the first token, from token to token, to the last."""

    first: Times
    between: Times
    whole: Times
    answered: int
    refused: int
    tokens: int
    busy: float
    in_system: float
    num_steps: int
    end_s: float


class TokenCost(NamedTuple):
    """Seconds of a step: `fixed_s + per_token_s · tokens + per_context_s · context`."""

    fixed_s: float
    per_token_s: float
    per_context_s: float


class Replica(NamedTuple):
    """A language model's server: its step, tokens a step reads at most, answers at once, and tokens its cache holds."""

    cost: TokenCost
    kv_tokens: int
    chunk: int = 512
    most_running: int = 256


def first_come(
    traffic: Traffic, service: Spread, workers: int | Sequence[int], *, rules: Rules | None = None,
    scaling: Scaling | None = None, warm_s: float = 0.0, seed: Seed = 0,
) -> Outcome:  # fmt: skip
    """Workers who take one request each, in the order of arrival (G/G/c).

    Parameters
    ----------
    service : seconds of work of a request.
    workers : how many, or how many in each step; what `scaling` says goes before.
    warm_s : who comes before is not counted in the times.

    Raises
    ------
    UsageError : no time, no worker, or a rate that is none.
    MissingExtra : numba is not installed.
    """
    rates, counts = _checked(traffic, workers)
    kernel = _kernels()[0]
    rules = rules or Rules()
    scale = np.zeros(6)
    if scaling is not None:
        if not 0 < scaling.busy_share <= 1 or scaling.lag < 1 or scaling.hold < 0 or not 1 <= scaling.least <= scaling.most:
            raise UsageError(f"{scaling} is no autoscaler", hint="busy_share in (0, 1], lag ≥ 1, 1 ≤ least ≤ most")
        scale[:] = (service.mean, scaling.busy_share, scaling.lag, scaling.hold, scaling.least, scaling.most)
    waits, sojourns, steps, sums = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros((len(rates), 6)), np.zeros(4)
    least_s = service.mean if rules.sheds else -math.inf
    kernel.first_come(
        _key(seed), rates, traffic.step_s, traffic.gaps.table, service.table, counts, scale, rules.hit_share, rules.hit_s,
        rules.deadline_s, least_s, warm_s, waits, sojourns, steps, sums,
    )  # fmt: skip
    return Outcome(Times(waits, _mean(sums[1], sums[0])), Times(sojourns, _mean(sums[2], sums[0])), steps, traffic.step_s)


def batching(
    traffic: Traffic, fixed_s: float, each_s: float, workers: int | Sequence[int] = 1, *, noise: Spread | None = None,
    hop: Spread | None = None, front_s: float = 0.0, cold: Cold | None = None, max_batch: int = 64, rules: Rules | None = None,
    max_waiting: int = 8_192, warm_s: float = 0.0, seed: Seed = 0,
) -> Outcome:  # fmt: skip
    """Workers who take what waits when they are free, as the gateway of `gyral serve` does.

    Parameters
    ----------
    fixed_s, each_s : a batch of b takes `fixed_s + each_s · b` seconds.
    noise : a factor on a batch's seconds, mean 1; None: 1.
    hop : seconds of a request elsewhere, for which nobody waits.
    front_s : of the one process in front, which reads requests one after the other.
    cold : what batches and hops take longer where the worker was idle; None: nothing.
    max_batch, max_waiting : requests of a batch, and of the queue; more are refused.

    Raises
    ------
    UsageError, MissingExtra : as `first_come`; here a cache is a matter of the rate: what it answers does not come.
    """
    rates, counts = _checked(traffic, workers)
    kernel = _kernels()[0]
    rules, cold = rules or Rules(), cold or Cold()
    if rules.hit_share or max_batch < 1 or max_waiting < 1 or not 0 <= fixed_s + each_s < math.inf:
        raise UsageError("this is no batching server", hint="max_batch and max_waiting ≥ 1, seconds ≥ 0, and no cache")
    waits, sojourns, steps, sums = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros((len(rates), 6)), np.zeros(7)
    kernel.batches(
        _key(seed), rates, traffic.step_s, traffic.gaps.table, fixed_s, each_s, (noise or fixed(1.0)).table, front_s,
        (hop or fixed(0.0)).table, *cold, counts, max_batch, rules.deadline_s if rules.sheds else math.inf, max_waiting, warm_s,
        waits, sojourns, steps, sums,
    )  # fmt: skip
    times = Times(waits, _mean(sums[1], sums[0])), Times(sojourns, _mean(sums[2], sums[0]))
    return Outcome(
        *times, steps, traffic.step_s, sums[5] / sums[6], int(steps[:, 0].sum() - steps[:, 1].sum()) / max(sums[4], 1)
    )


def stages(traffic: Traffic, row: Sequence[tuple[Spread, int]], *, seed: Seed = 0, warm_s: float = 0.0) -> Times:
    """Seconds through several stages in a row, each (seconds of work, workers): retrieval, then ranking.

    Raises
    ------
    UsageError, MissingExtra : as `first_come`.
    """
    rates, _ = _checked(traffic, min((workers for _, workers in row), default=0))
    kernel = _kernels()[0]
    mean = float(rates.sum() * traffic.step_s)
    times = np.empty(int(mean + 10 * math.sqrt(mean) + 100))
    came = times[: kernel.arrivals(_key(seed), rates, traffic.step_s, traffic.gaps.table, times)]
    order, at = np.arange(len(came)), came
    for number, (service, workers) in enumerate(row, start=1):
        ends = np.empty(len(at))
        kernel.stage(at, _key(seed, number), service.table, workers, ends)
        by_end = np.argsort(ends, kind="stable")
        order, at = order[by_end], ends[by_end]
    spent = (at - came[order])[came[order] >= warm_s]
    return of_samples(spent)


def tokens(
    traffic: Traffic, replica: Replica, prompts: Spread, answers: Spread, *, warm_s: float = 0.0, seed: Seed = 0,
    longest: int = 4_096, max_waiting: int = MAX_WAITING,
) -> TokenOutcome:  # fmt: skip
    """A replica of a language model in continuous batches.

    Parameters
    ----------
    prompts, answers : tokens of a request; an answer is cut at `longest`.

    Raises
    ------
    UsageError, MissingExtra : as `first_come`.
    """
    rates, _ = _checked(traffic, 1)
    kernel = _kernels()[1]
    if min(replica.kv_tokens, replica.chunk, replica.most_running, longest, max_waiting) < 1 or min(replica.cost) < 0:
        raise UsageError(f"{replica} cannot answer", hint="counts ≥ 1, seconds ≥ 0")
    ring = 1 << max(1, (longest - 1).bit_length())
    first, between, whole = (np.zeros(BINS, np.int64) for _ in range(3))
    sums = np.zeros(9)
    kernel.continuous(
        _key(seed), rates, traffic.step_s, traffic.gaps.table, prompts.table, answers.table, np.array(replica.cost),
        replica.chunk, replica.most_running, replica.kv_tokens, max_waiting, ring, warm_s, first, between, whole, sums,
    )  # fmt: skip
    between_s = (sums[2] - sums[1]) / max(sums[3] - sums[0], 1)
    times = Times(first, _mean(sums[1], sums[0])), Times(between, between_s), Times(whole, _mean(sums[2], sums[0]))
    end = max(sums[6], 1e-300)
    return TokenOutcome(
        *times, int(sums[0]), int(sums[8]), int(sums[3]), float(sums[4] / end), float(sums[5] / end), int(sums[7]), float(end)
    )


def erlang_c(rate: float, service_s: float, workers: int) -> float:
    """Mean seconds waited before `workers` that serve in exponential times, who come by chance; inf when they are too few.

    Notes
    -----
    **Source**: Erlang 1917; by the recursion of Erlang B, which does not overflow.
    """
    offered = rate * service_s
    if offered >= workers:
        return math.inf
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    busy = offered / workers
    return blocked / (1 - busy * (1 - blocked)) * service_s / (workers * (1 - busy))


def _kernels() -> tuple[Any, Any]:
    try:
        from gyral.plan import simulate_kernel, token_kernel
    except ImportError:
        raise MissingExtra("numba", "train", "simulating a server") from None
    return simulate_kernel, token_kernel


def _checked(traffic: Traffic, workers: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    rates = np.ascontiguousarray(traffic.rates, np.float64)
    counts = np.ascontiguousarray(np.broadcast_to(np.asarray(workers, np.int64), rates.shape))
    if not len(rates) or not np.isfinite(rates).all() or rates.min() < 0 or not 0 < traffic.step_s < math.inf:
        raise UsageError("this is no traffic", hint="one rate a step, 0 or more; steps last longer than 0 s")
    if counts.min() < 1:
        raise UsageError("somebody has to work", hint="1 worker or more in each step")
    return rates, counts


def _key(seed: Seed, *more: int) -> np.uint64:
    """A key of draws; keys of different seeds have nothing in common."""
    parts = [*([seed] if isinstance(seed, int) else seed), *more]
    return np.uint64(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _mean(total: float, count: float) -> float:
    return float(total / count) if count else math.nan
