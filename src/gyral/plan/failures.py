"""What failures cost a long run: how often to save, how long it takes in the end, and what that is in money.

Failures are a Poisson process: n nodes fail n times as often as one, and with M seconds between failures a stretch of L seconds
without one takes M (e^(L/M) − 1) on average. After a failure, R seconds of restart and the work since the last save are done
again. Saving each τ seconds of work takes C seconds, during which nothing else is done; what a run saves beside its steps
counts as the part that is waited for. Young's interval √(2 C M) is the least of that to the first order, Daly's to a higher.

The wall time is a mean with an interval: the sum of many stretches is nearly normal, and both ends of a mean time between
failures that is itself not known exactly are gone through, because that moves the result most.

Source: Young 1974; Daly 2006 (A higher order estimate of the optimum checkpoint interval), equations 20 and 37.
"""

from __future__ import annotations

from math import exp, expm1, sqrt

import msgspec

from gyral.errors import ConfigError
from gyral.plan.figure import FOUR_OF_FIVE, Figure, weakest

YEAR_S, HOUR_S = 365.25 * 86_400, 3_600.0


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """What fails and what it takes to go on.

    Attributes
    ----------
    nodes : machines of which each stops the run when it fails.
    node_mtbf_s : mean seconds between failures of one.
    save_s, restart_s : of a checkpoint, and from a failure to the first step.
    """

    nodes: int
    node_mtbf_s: Figure
    save_s: float
    restart_s: float

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.node_mtbf_s.interval[0] <= 0 or self.save_s <= 0 or self.restart_s < 0:
            raise ConfigError("failures need nodes, a time between them, and a time of saving", hint="all above zero")

    def mtbf_s(self, node_mtbf_s: float | None = None) -> float:
        """Mean seconds between failures of any node."""
        return (node_mtbf_s or self.node_mtbf_s.value) / self.nodes


def young(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between saves, to the first order."""
    return sqrt(2 * save_s * mtbf_s)


def daly(save_s: float, mtbf_s: float) -> float:
    """Seconds of work between saves, to a higher order; the mean time between failures where saving takes twice as long."""
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    part = save_s / (2 * mtbf_s)
    return young(save_s, mtbf_s) * (1 + sqrt(part) / 3 + part / 9) - save_s


def moments(work_s: float, every_s: float, save_s: float, restart_s: float, mtbf_s: float) -> tuple[float, float]:
    """Mean and standard deviation of the seconds that some work takes; infinite where no stretch ever ends."""
    M, s, L = mtbf_s, every_s + save_s, every_s + save_s + restart_s  # noqa: N806
    if 2 * L / M > 700:
        return float("inf"), float("inf")
    passes = exp(-s / M)
    again = M * expm1(L / M)
    again_squared = M * M * (exp(2 * L / M) - 2 * L / M * exp(L / M) - 1) + again**2
    mean = M * (1 - passes) + (1 - passes) * again
    begun = M - passes * (s + M)  # mean time of a stretch that fails, times how often one does
    squared = 2 * M * M * (1 - passes * (1 + s / M)) + 2 * begun * again + (1 - passes) * again_squared
    num = work_s / every_s
    return num * mean, sqrt(max(num * (squared - mean * mean), 0.0))


def wall_time(work: Figure, failures: Failures, every_s: float | None = None) -> Figure:
    """Seconds from beginning to end of a run that computes for `work` seconds.

    Parameters
    ----------
    every_s : seconds of work between saves; None: Daly's, by the mean time between failures that is thought likely.
    """
    every = every_s or daly(failures.save_s, failures.mtbf_s())

    def told(work_s: float, node_mtbf_s: float) -> tuple[float, float]:
        return moments(work_s, min(every, work_s), failures.save_s, failures.restart_s, failures.mtbf_s(node_mtbf_s))

    value, _ = told(work.value, failures.node_mtbf_s.value)
    fewest, most = failures.node_mtbf_s.interval
    best, best_spread = told(work.interval[0], most)
    worst, worst_spread = told(work.interval[1], fewest)
    why = f"{failures.nodes:,} nodes, saved every {every:,.0f} s"
    low = max(best - FOUR_OF_FIVE * best_spread, work.interval[0])
    return Figure(value, "s", weakest(work, failures.node_mtbf_s), why, low, worst + FOUR_OF_FIVE * worst_spread)


def money(wall: Figure, nodes: int, node_hour_usd: float) -> Figure:
    """What nodes cost for so long."""
    usd = nodes * node_hour_usd / HOUR_S
    low, high = wall.interval
    why = f"{node_hour_usd:g} usd a node-hour"
    return Figure(wall.value * usd, "usd", weakest(wall, Figure(0)), why, low * usd, high * usd)
