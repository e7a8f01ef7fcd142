"""A server that has slept answers slower: how much, and after how long, from requests that found it idle.

A process that waits loses its caches to whoever runs meanwhile, and its core goes to sleep; the next request pays for both. So
a server that is asked seldom is slower than one that is asked often, and service times measured at a low rate overstate what a
busy one takes. On two shared cores a request to `gyral serve` after 16 ms of silence took 1.3 ms, one after less than .5 ms .56
ms, and between them the time followed 1 − exp(−idle / 5 ms); that is the form here, with its two constants:

    seconds = warm · (1 + slower · (1 − exp(−idle / cools_s)))

Left out: warmth that builds up over several requests (at 400/s the same silence cost .63 ms where at 150/s it cost 1.1).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.errors import InputError

BINS, FEWEST = 16, 320
LEAST_S = 1e-4


class Cold(NamedTuple):
    """What silence costs.

    Attributes
    ----------
    slower : by what share of a warm request's seconds one after a long silence takes longer; 0: silence costs nothing.
    cools_s : after which silence 63 % of that is paid.
    """

    slower: float = 0.0
    cools_s: float = 1.0

    def factor(self, idle_s: np.ndarray) -> np.ndarray:
        """On a warm request's seconds, [n]; who found the server at work (idle ≤ 0) pays nothing more."""
        return np.asarray(1 - self.slower * np.expm1(-np.maximum(idle_s, 0.0) / self.cools_s))


def idle_before(due_s: np.ndarray, done_s: np.ndarray) -> np.ndarray:
    """Seconds for which nobody was there when each request came, [n]; at most 0 where somebody was, nan of the first.

    Parameters
    ----------
    due_s, done_s : when requests came, ascending, and when they were answered, seconds [n].
    """
    last = np.maximum.accumulate(done_s)
    return np.concatenate([[np.nan], due_s[1:] - last[:-1]])


def cold_of(idle_s: np.ndarray, seconds: np.ndarray) -> Cold:
    """Fit by least squares to medians of bins of equal counts, of those who found nobody; one constant by a grid.

    Parameters
    ----------
    idle_s, seconds : silence before each request, and how long it took, [n].

    Raises
    ------
    InputError : fewer than `FEWEST` requests found nobody.
    """
    alone = np.nonzero(idle_s > 0)[0]
    if len(alone) < FEWEST:
        why = f"{len(alone):,} of {len(seconds):,} did"
        raise InputError(f"fewer than {FEWEST} requests found nobody", why=why, hint="ask longer, or at a lower rate")
    bins = np.array_split(alone[np.argsort(idle_s[alone])], BINS)
    medians = np.array([np.median(seconds[each]) for each in bins])
    longest = float(idle_s[bins[-1]].mean())
    found, least = Cold(), float(((medians - medians.mean()) ** 2).sum())
    for cools_s in np.geomspace(LEAST_S, max(longest, 2 * LEAST_S), 80):
        curve = np.array([float(-np.expm1(-idle_s[each] / cools_s).mean()) for each in bins])
        rise, warm = np.polyfit(curve, medians, 1)
        left = float(((medians - warm - rise * curve) ** 2).sum())
        if left < least and rise > 0 and warm > 0:
            found, least = Cold(float(rise / warm), float(cools_s)), left
    return found
