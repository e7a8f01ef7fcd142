"""When requests are due: seconds from the start, drawn before the first one is sent.

All patterns but `constant` are Poisson processes, because many people who know nothing of each other arrive like that: given
the number that comes, their times are independent draws from the rate's shape. Shapes keep the mean, so that patterns can be
compared at one rate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gyral.errors import UsageError
from gyral.plan.day import day

MAX_REQUESTS = 5_000_000
"""A request costs about 60 bytes before it is answered."""
BURST_SHARE = 0.1
GRID = 20_001

Shape = Callable[[np.ndarray], np.ndarray]


def constant(rate: float, seconds: float) -> np.ndarray:
    """Every 1/rate seconds."""
    return np.arange(round(rate * seconds), dtype=np.float64) / rate


def poisson(rate: float, seconds: float, rng: np.random.Generator, shape: Shape | None = None) -> np.ndarray:
    """A Poisson process.

    Parameters
    ----------
    shape : of the rate, at times as shares of the whole; only relative heights matter.

    Notes
    -----
    **Source**: conditional uniformity, Ross, *Stochastic Processes*, theorem 2.3.1; a rate that changes by inversion of its
    integral, Çinlar, *Introduction to Stochastic Processes*, 4.7.
    """
    shares = np.sort(rng.random(rng.poisson(rate * seconds)))
    if shape is not None:
        at = np.linspace(0.0, 1.0, GRID)
        heights = shape(at)
        area = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
        shares = np.interp(shares, area / area[-1], at)
    times: np.ndarray = shares * seconds
    return times


def bursts(factor: float, every_s: float, seconds: float) -> Shape:
    """A tenth of the time `factor` times the mean rate, and less between; at most 10."""
    low = max((1 - factor * BURST_SHARE) / (1 - BURST_SHARE), 0.0)
    return lambda at: np.where((at * seconds / every_s) % 1.0 < BURST_SHARE, factor, low)


def due(
    pattern: str, rate: float, seconds: float, seed: int, *, burst_factor: float = 5.0, burst_every_s: float = 2.0
) -> np.ndarray:
    """Arrival times of a pattern, ascending, float64 seconds.

    Raises
    ------
    UsageError : more requests than fit, or none.
    """
    if rate * seconds > MAX_REQUESTS:
        what = f"{rate:,.0f}/s for {seconds:,.0f} s are {rate * seconds:,.0f} requests"
        raise UsageError(what, hint=f"at most {MAX_REQUESTS:,}: lower `--rate` or `--seconds`")
    rng = np.random.default_rng(seed)
    if pattern == "constant":
        times = constant(rate, seconds)
    elif pattern == "bursts":
        times = poisson(rate, seconds, rng, bursts(burst_factor, burst_every_s, seconds))
    else:
        times = poisson(rate, seconds, rng, day if pattern == "day" else None)
    if not len(times):
        raise UsageError(f"no request is due at {rate:g}/s within {seconds:g} s", hint="a higher `--rate`, or more `--seconds`")
    return times
