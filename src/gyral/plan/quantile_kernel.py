"""Draws by number and histograms of times, for the compiled simulators.

A draw is a hash of (key, number), not the next of a stream: the n-th request of a pod has the same luck in every what-if,
whatever else is drawn. Quantities are drawn from tables of their quantiles (`spread.py`), which costs no logarithm and holds
what was measured as well as what has a name. Times are counted in bins of 1/64 of an octave, found by the bits of a float64.

Source: splitmix64, Steele, Lea and Flood 2014, as a counter-based generator; the bins are those of HDR histograms.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CELLS, LEVELS = 512, 3
"""Cells of a table; its last cell is told by the next level."""
PER_OCTAVE, LEAST_EXPONENT, OCTAVES = 64, -20, 34
BINS = PER_OCTAVE * OCTAVES + 1
"""Bin 0 holds what is under 2^-20 s, the last what is over 2^14 s."""

U = np.uint64
_STEP, _A, _B = U(0x9E3779B97F4A7C15), U(0xBF58476D1CE4E5B9), U(0x94D049BB133111EB)
_30, _27, _31, _11 = U(30), U(27), U(31), U(11)
_UNIT = 2.0**-53
_SHIFT = 52 - 6
_FIRST = (1023 + LEAST_EXPONENT) << 6


@njit(nogil=True, cache=True, inline="always")
def uniform(key: np.uint64, number: np.uint64) -> float:
    """The `number`-th draw of a key, uniform in [0, 1)."""
    z = key + (number + U(1)) * _STEP
    z = (z ^ (z >> _30)) * _A
    z = (z ^ (z >> _27)) * _B
    return float((z ^ (z >> _31)) >> _11) * _UNIT


@njit(nogil=True, cache=True, inline="always")
def quantile(table: np.ndarray, u: float) -> float:
    """Value of float64 [LEVELS, CELLS + 1] at u in [0, 1)."""
    x = u * CELLS
    cell = int(x)
    level = 0
    while cell == CELLS - 1 and level < LEVELS - 1:
        x = (x - cell) * CELLS
        cell = int(x)
        level += 1
    low = table[level, cell]
    found: float = low + (x - cell) * (table[level, cell + 1] - low)
    return found


@njit(nogil=True, cache=True, inline="always")
def bin_of(seconds: float) -> int:
    """Which bin of a histogram a time is counted in."""
    place = (np.float64(seconds).view(np.int64) >> _SHIFT) - _FIRST + 1
    return int(0 if place < 0 else BINS - 1 if place >= BINS else place)


@njit(nogil=True, cache=True, inline="always")
def sift_down(heap: np.ndarray, count: int, value: float) -> None:
    """Replace the least of `heap[:count]` by a value that is no less."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@njit(nogil=True, cache=True, inline="always")
def sift_up(heap: np.ndarray, count: int, value: float) -> None:
    """Add a value to `heap[:count]`."""
    place = count
    while place > 0:
        parent = (place - 1) >> 1
        if heap[parent] <= value:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = value
