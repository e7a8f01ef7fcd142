"""How a positive quantity spreads (service times, gaps, lengths), as a table of its quantiles.

One form for what has a name and for what was measured: named spreads are tabled from their inverse, measured ones from samples
or from a few percentiles, between which the logarithm is taken for linear in the normal score. Tables are scaled to the mean,
which a queue depends on most; the top one of 1.3e8 is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from gyral.errors import UsageError

CELLS, LEVELS = 512, 3
_NORMAL = NormalDist()


class Spread(NamedTuple):
    """A quantity ≥ 0.

    Attributes
    ----------
    table : float64 [3, 513]; row 0 at u = 0, 1/512, … 1, row 1 that of its last cell, row 2 that of row 1's.
    mean : of draws from the table.
    """

    table: np.ndarray
    mean: float

    def scaled(self, factor: float) -> Spread:
        """The same shape, `factor` times as large."""
        return Spread(self.table * factor, self.mean * factor)

    def at(self, u: float) -> float:
        """Quantile at u in [0, 1)."""
        return float(np.interp(u, _ascending(_levels()), _ascending(self.table)))

    @property
    def cv(self) -> float:
        """Standard deviation over mean."""
        low, high = self.table[:, :-1], self.table[:, 1:]
        square = float((_weights() * (low * low + low * high + high * high) / 3).sum())
        return math.sqrt(max(0.0, square / self.mean**2 - 1)) if self.mean else 0.0


def fixed(value: float) -> Spread:
    """Always the same."""
    return of_inverse(lambda u: np.full_like(u, _positive(value)), value)


def exponential(mean: float) -> Spread:
    """Gaps between people who know nothing of each other."""
    return of_inverse(lambda u: -np.log1p(-u), _positive(mean))


def lognormal(mean: float, cv: float) -> Spread:
    """Many small factors: service times, lengths of texts."""
    if cv <= 0:
        return fixed(mean)
    sigma = math.sqrt(math.log1p(cv * cv))
    return of_inverse(lambda u: np.exp(sigma * _scores(u)), _positive(mean))


def measured(samples: Sequence[float] | np.ndarray) -> Spread:
    """What was seen.

    Raises
    ------
    UsageError : there are no samples, or one is negative or no number.
    """
    seen = np.sort(np.asarray(samples, np.float64))
    if not len(seen) or not np.isfinite(seen).all() or seen[0] < 0:
        raise UsageError("a spread needs samples that are 0 or more", hint=f"{len(seen):,} samples were given")
    at = (np.arange(len(seen)) + 0.5) / len(seen)
    return of_inverse(lambda u: np.interp(u, at, seen), float(seen.mean()))


def of_percentiles(percentiles: Mapping[float, float], mean: float | None = None) -> Spread:
    """From shares → values, `{.5: .002, .99: .004}`; a lognormal between and beyond them.

    Raises
    ------
    UsageError : fewer than two, or they do not rise.
    """
    shares = sorted(percentiles)
    values = [percentiles[share] for share in shares]
    is_rising = all(0 < low <= high < math.inf for low, high in pairwise(values))
    if len(shares) < 2 or not is_rising or not 0 < shares[0] < shares[-1] < 1:
        raise UsageError(f"{dict(percentiles)} are no percentiles", hint="two or more shares in (0, 1), with rising values > 0")
    known, logs = _scores(np.array(shares)), np.log(values)
    below, above = (logs[1] - logs[0]) / (known[1] - known[0]), (logs[-1] - logs[-2]) / (known[-1] - known[-2])

    def inverse(u: np.ndarray) -> np.ndarray:
        score = _scores(u)
        inner = np.interp(score, known, logs)
        inner += np.minimum(score - known[0], 0) * below + np.maximum(score - known[-1], 0) * above
        return np.asarray(np.exp(inner))

    return of_inverse(inverse, mean)


def of_inverse(inverse: Callable[[np.ndarray], np.ndarray], mean: float | None = None) -> Spread:
    """Table an inverse distribution function, scaled to a mean; None: as it is."""
    table = np.asarray(inverse(_levels()), np.float64)
    found = float((_weights() * (table[:, :-1] + table[:, 1:]) / 2).sum())
    if mean is None or found == 0:
        return Spread(table, found)
    return Spread(table * (mean / found), mean)


def _levels() -> np.ndarray:
    """Where a table is told, ascending; its very end is half of the last cell below 1, where the inverse is finite."""
    at = np.arange(CELLS + 1) / CELLS
    whole = np.stack([1 - (1 - at) * float(CELLS) ** -level for level in range(LEVELS)])
    return np.asarray(np.minimum(whole, 1 - 0.5 * float(CELLS) ** -LEVELS))


def _ascending(rows: np.ndarray) -> np.ndarray:
    """Rows of a table as one, each instead of the last cell of the row before."""
    return np.concatenate([rows[0, :-1], rows[1, :-1], rows[2]])


def _weights() -> np.ndarray:
    """How likely each cell is; those that the next level tells count there."""
    weights = np.repeat(float(CELLS) ** -np.arange(1, LEVELS + 1)[:, None], CELLS, axis=1)
    weights[: LEVELS - 1, -1] = 0
    return np.asarray(weights)


def _scores(u: np.ndarray) -> np.ndarray:
    """Normal scores, none lower than that of 1e-9."""
    found = [_NORMAL.inv_cdf(min(max(float(each), 1e-9), 1 - 1e-9)) for each in u.ravel()]
    return np.asarray(found).reshape(u.shape)


def _positive(value: float) -> float:
    if not 0 <= value < math.inf:
        raise UsageError(f"{value:g} is no size of a spread", hint="0 or more")
    return value
