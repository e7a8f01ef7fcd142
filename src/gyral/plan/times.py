"""Histograms of seconds: 64 bins an octave from 1 µs to 4.5 hours, so that a quantile is known to 0.8 %, whatever came."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

PER_OCTAVE, LEAST_EXPONENT, OCTAVES = 64, -20, 34
BINS = PER_OCTAVE * OCTAVES + 1
"""Bin 0 holds what is under 2^-20 s, the last what is over 2^14 s."""


class Times(NamedTuple):
    """A histogram of seconds: int64 [BINS] of 1/64 of an octave, and the mean where it was summed exactly."""

    counts: np.ndarray
    mean_s: float

    def __len__(self) -> int:  # a named tuple's own would be 2
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """Seconds that this share took at most; NaN when nobody was counted. The bins know it to 0.8 %."""
        total = self.counts.sum()
        if not total:
            return math.nan
        below = np.cumsum(self.counts)
        place = int(np.searchsorted(below, share * total))
        if place == 0:
            return 0.0
        inside = (share * total - below[place - 1]) / self.counts[place]
        low, high = _edge(place), _edge(place + 1)
        return float(low + inside * (high - low))

    def __add__(self, other: object) -> Times:
        """Of both together."""
        if not isinstance(other, Times):
            return NotImplemented
        mine, its = len(self), len(other)
        mean = (mine * self.mean_s + its * other.mean_s) / (mine + its) if mine + its else math.nan
        return Times(self.counts + other.counts, mean)


def of_samples(seconds: np.ndarray) -> Times:
    """Count times that are known one by one."""
    place = ((np.asarray(seconds, np.float64).view(np.int64) >> (52 - 6)) - ((1023 + LEAST_EXPONENT) << 6)) + 1
    mean = float(seconds.mean()) if len(seconds) else math.nan
    return Times(np.bincount(np.clip(place, 0, BINS - 1), minlength=BINS).astype(np.int64), mean)


@cache
def edges() -> np.ndarray:
    """Where the bins of a histogram begin and the last ends, seconds, float64 [BINS + 1]."""
    return np.array([0.0, *(_edge(place) for place in range(1, BINS + 1))])


def _edge(place: int) -> float:
    """Where a bin begins, seconds."""
    octave, part = divmod(place - 1, PER_OCTAVE)
    return float(2.0 ** (octave + LEAST_EXPONENT) * (1 + part / PER_OCTAVE))
