"""How much of each domain to train on, with so much data in all and so much of each that differs.

Tokens t_d of domains are worth (Σ s_d g_d(t_d)^ρ)^(1/ρ), g_d what is left of t_d once it repeats: t_d up to the U_d tokens
there are, then U_d (1 + R (1 - exp(-(t_d / U_d - 1) / R))). That sum is concave, so at the best mixture a further token has
one worth in every domain, λ, and this is the only unknown: t_d(λ) is a closed form up to U_d, beyond it Newton's method on
a convex function from its left, which cannot overshoot. λ is found by bisection between bounds that hold for certain. No start,
no draw: one table and budget give one answer.

Letters: m amounts of data, D domains.

**Source**: repeats, Muennighoff et al., 2305.16264, equation 5; equal marginal worth, Boyd and Vandenberghe, Convex
Optimization (2004), section 5.5.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gyral.errors import InputError, did_you_mean
from gyral.law import mixture_worth
from gyral.law.intervals import Interval, percentiles
from gyral.law.mixture_worth import Worth
from gyral.law.runs import RunTable
from gyral.law.sweep import Stop

REPEATS = 15.39
"""R*_D of `data_constrained` where a table shows none: one of many that fit as well (13 to 200)."""
HALVINGS, NEWTON_STEPS = 46, 60
POINTS = 401
"""Weights of one domain at which the others are made the best of."""
NUM_WORTHS = 40
"""Bootstraps of what domains are worth."""
MOST_WIDE = 0.5
"""An 80 % interval of a weight that is wider says nothing."""
MOST_BEYOND = 0.1
"""A weight further than this above all that were measured is said to be so."""


def left_of(data: np.ndarray, unique: np.ndarray | float) -> np.ndarray:
    """What data is worth in tokens that differ, of which there are `unique`: less for each time that it repeats."""
    over = np.maximum(data / unique - 1, 0.0)
    return np.asarray(np.minimum(data, unique) * (1 - REPEATS * np.expm1(-over / REPEATS)))


@dataclass(frozen=True)
class Blend:
    """What domains are worth, and how much there is of each.

    Attributes
    ----------
    unique_D : tokens that differ; inf: as many as are wanted.
    """

    worth: Worth
    unique_D: np.ndarray

    def best(self, data_m: np.ndarray, without: np.ndarray | None = None) -> np.ndarray:
        """Tokens of each domain, m × D, whose worth is greatest among those that sum to `data_m`.

        Parameters
        ----------
        without : for each row the number of a domain that gets none.
        """
        worth, rho = self.worth.by_domain, self.worth.rho
        log_s = np.tile(np.log(np.maximum(worth, 1e-300)), (len(data_m), 1))
        if without is not None:
            log_s[np.arange(len(data_m)), without] = -np.inf
        log_u = np.log(np.minimum(self.unique_D, 1e300))
        even = np.tile((data_m / (len(worth) - (without is not None)))[:, None], (1, len(worth)))
        at = np.where(np.isfinite(log_s), self._log_marginal(even, log_s), np.nan)
        low, high = np.nanmin(at, axis=1), np.nanmax(at, axis=1)  # too many tokens, too few
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            is_many = self._tokens(middle, log_s, log_u, rho).sum(axis=1) > data_m
            low, high = np.where(is_many, middle, low), np.where(is_many, high, middle)
        found = self._tokens((low + high) / 2, log_s, log_u, rho)
        return np.asarray(found * (data_m / found.sum(axis=1))[:, None])

    def value(self, tokens_mD: np.ndarray) -> np.ndarray:
        """Worth of so many tokens of each domain in tokens of the table's mean mixture, m."""
        return self.worth.tokens(left_of(tokens_mD, self.unique_D))

    def told(self, data_m: np.ndarray) -> np.ndarray:
        """Worth of the best mixture of so much data, m."""
        return self.value(self.best(data_m))

    def _log_marginal(self, tokens_mD: np.ndarray, log_s: np.ndarray) -> np.ndarray:
        over = np.maximum(tokens_mD / self.unique_D - 1, 0.0)
        return np.asarray(log_s + (self.worth.rho - 1) * np.log(left_of(tokens_mD, self.unique_D)) - over / REPEATS)

    def _tokens(self, log_m: np.ndarray, log_s: np.ndarray, log_u: np.ndarray, rho: float) -> np.ndarray:
        """Tokens of each domain whose last one is worth exp(`log_m`), m × D."""
        fresh = np.exp(np.minimum((log_s - log_m[:, None]) / (1 - rho), 690.0))
        short = np.where(np.isfinite(log_s), (log_s - log_m[:, None]) - (1 - rho) * log_u, -1.0)
        rows = np.flatnonzero((short > 0).any(axis=1))
        if not len(rows):
            return fresh
        aim, z = np.maximum(short[rows], 0.0), np.zeros((len(rows), log_s.shape[1]))
        for _ in range(NEWTON_STEPS):  # z = (t / U - 1) / R, where (1 - ρ) log(1 + R (1 - e^-z)) + z = aim
            fall = np.exp(-z)
            left = 1 + REPEATS * (1 - fall)
            step = (aim - z - (1 - rho) * np.log(left)) / (1 + (1 - rho) * REPEATS * fall / left)
            z = z + step
            if np.abs(step).max() < 1e-13:
                break
        fresh[rows] = np.where(short[rows] > 0, np.exp(log_u) * (1 + REPEATS * z), fresh[rows])
        return fresh


class Mixed(NamedTuple):
    """The mixture of an allocation.

    Attributes
    ----------
    weights, weights_80 : of each domain, and where four of five bootstraps have them.
    flat : share of loss → domain → weights within it, the others as good as they can be.
    epochs : times that each domain is seen; 1 where it does not repeat.
    stop : why the weights are no more than the middle of a range.
    """

    weights: dict[str, float]
    weights_80: dict[str, Interval]
    flat: dict[float, dict[str, Interval]]
    epochs: dict[str, float]
    stop: Stop | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; no weights where they are not known."""
        flat = {f"{share:g}": {name: list(each) for name, each in found.items()} for share, found in self.flat.items()}
        known = {"weights": self.weights, "epochs_by_domain": self.epochs} if self.stop is None else {"weights": None}
        return {**known, "weights_80": {name: list(each) for name, each in self.weights_80.items()}, "weights_flat": flat}


def worth_of(table: RunTable) -> tuple[Worth | None, Stop | None]:
    """What domains are worth where a table has two or more; or why it cannot tell."""
    if len(mixture_worth.domains_of(table)) < 2:
        return None, None
    try:
        return mixture_worth.fit(table), None
    except InputError as error:
        return None, Stop("mixture", f"{error.what}: {error.why}", error.hint or "runs on other mixtures")


def unique_of(limits: Mapping[str, float], domains: tuple[str, ...]) -> np.ndarray:
    """Tokens of each domain; inf where none is said.

    Raises
    ------
    InputError : a name is no domain, or a number is not positive.
    """
    found = np.full(len(domains), math.inf)
    for name, value in limits.items():
        if name not in domains:
            raise InputError(f"there is no domain `{name}`", hint=did_you_mean(name, domains) or ", ".join(domains))
        if not value > 0:
            raise InputError(f"`{name}` has {value:g} tokens", hint="a domain there is none of is left out of the table")
        found[domains.index(name)] = value
    return found


def mixed(
    blend: Blend, worths: list[Worth], data: float, loss_of: Callable[[np.ndarray], np.ndarray], shares: tuple[float, ...]
) -> Mixed:
    """The best mixture of so much data, and how sure and how flat it is.

    Parameters
    ----------
    worths : bootstraps.
    loss_of : from worth, in tokens of the mean mixture, to the loss of the model that is meant.
    shares : of the loss, within which a weight is as good.
    """
    domains, seen = blend.worth.domains, blend.best(np.array([data]))[0]
    D, weights = len(domains), seen / data
    others = np.stack([replace(blend, worth=each).best(np.array([data]))[0] / data for each in worths])
    ranges = {name: percentiles(others[:, d], 0.8) for d, name in enumerate(domains)}
    least = float(loss_of(blend.value(seen[None]))[0])
    flat: dict[float, dict[str, Interval]] = {share: {} for share in shares}
    point_m = np.linspace(0, 1 - 1e-9, POINTS)
    for d, name in enumerate(domains):
        at_m = np.sort(np.append(point_m, weights[d]))
        tokens = blend.best(data * (1 - at_m), np.full(len(at_m), d))
        tokens[:, d] = data * at_m
        loss_m = loss_of(blend.value(tokens))
        for share in shares:
            inside = at_m[loss_m <= least * (1 + share)]
            flat[share][name] = Interval(float(inside.min()), float(inside.max()))
    stop = None
    widest = max(domains, key=lambda name: ranges[name].high - ranges[name].low)
    if ranges[widest].high - ranges[widest].low > MOST_WIDE:
        what = f"the best weight of `{widest}` lies between {ranges[widest].low:.2f} and {ranges[widest].high:.2f}"
        stop = Stop("mixture", what, f"runs with more and with less `{widest}` than any so far")
    notes = [f"assumed: repeats of a domain are worth what R*_D = {REPEATS:g} says (Muennighoff et al. 2023)"]
    notes = notes if np.isfinite(blend.unique_D).any() else []
    most = blend.worth.weights_nD.max(axis=0)
    notes += [
        f"{weights[d]:.2f} of `{domains[d]}` is more than any run had ({most[d]:.2f})"
        for d in range(D)
        if weights[d] > most[d] + MOST_BEYOND
    ]
    epochs = {name: max(1.0, float(seen[d] / blend.unique_D[d])) for d, name in enumerate(domains)}
    return Mixed(dict(zip(domains, map(float, weights), strict=True)), ranges, flat, epochs, stop, tuple(notes))
