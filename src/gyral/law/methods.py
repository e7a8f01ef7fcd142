"""The three ways by which compute-optimal sizes were first found, so that their answers can be held against each other.

| method | what it does | what goes wrong |
|---|---|---|
| `envelope` (approach 1) | a power law through the sizes of the best run at each compute | as coarse as what was tried |
| `isoflop` (approach 2) | a parabola over log N for each budget, a power law through the minima | biased, even without noise |
| `parametric` (approach 3) | the least of a fitted law along a budget | as good as the law |

**Source**: Hoffmann et al., 2203.15556, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.law.allocate import Budget, allocate
from gyral.law.choose import Law
from gyral.law.runs import RunTable
from gyral.law.sweep import budgets

LEAST_SIZES = 3


class Minimum(NamedTuple):
    """The best size of one budget: by a parabola through its runs."""

    C: float
    N: float
    loss: float
    is_inside: bool
    curvature: float


class Rule(NamedTuple):
    """N* = coefficient · C^exponent."""

    method: str
    exponent: float
    coefficient: float
    points: int

    def size(self, flops: float) -> float:
        """Best size for a budget."""
        return float(self.coefficient * flops**self.exponent)


def minima(table: RunTable) -> list[Minimum]:
    """A parabola of log loss over log N for each budget that has three sizes or more."""
    _needs(table)
    found = []
    for rows in budgets(table):
        size, loss = np.log(table.columns["N"][rows]), np.log(table.loss[rows])
        if len(set(size.tolist())) < LEAST_SIZES:
            continue
        middle = size.mean()
        bend, slope, height = np.polyfit(size - middle, loss, 2)
        at = middle - slope / (2 * bend) if bend > 0 else size[loss.argmin()]
        is_inside = bool(bend > 0 and size.min() <= at <= size.max())
        value = height - slope * slope / (4 * bend) if bend > 0 else loss.min()
        found.append(
            Minimum(float(np.median(table.axis()[rows])), float(np.exp(at)), float(np.exp(value)), is_inside, float(bend))
        )
    return found


def isoflop(table: RunTable) -> Rule:
    """Approach 2."""
    inside = [each for each in minima(table) if each.is_inside]
    return _power("isoflop", [each.C for each in inside], [each.N for each in inside], table)


def envelope(table: RunTable) -> Rule:
    """Approach 1: runs that no run of as little compute beats."""
    _needs(table)
    order = np.argsort(table.axis(), kind="stable")
    best, compute, size = np.inf, [], []
    for i in order:
        if table.loss[i] < best:
            best = table.loss[i]
            compute.append(float(table.axis()[i]))
            size.append(float(table.columns["N"][i]))
    return _power("envelope", compute, size, table)


def parametric(law: Law, low: float, high: float) -> Rule:
    """Approach 3, between two budgets."""
    points = np.geomspace(low, high, 5)
    sizes = [allocate(law, Budget(float(flops)), num=8).N for flops in points]
    return _power("parametric", points.tolist(), sizes, law.table)


def _power(method: str, compute: list[float], size: list[float], table: RunTable) -> Rule:
    if len(compute) < 2 or max(compute) / min(compute) < 2:
        why = f"{len(compute)} budgets have a minimum inside the sizes that were tried"
        raise InputError(
            f"`{method}` finds no rule", where=table.source, why=why, hint="more budgets, with sizes on both sides"
        )
    exponent, offset = np.polyfit(np.log(compute), np.log(size), 1)
    return Rule(method, float(exponent), float(np.exp(offset)), len(compute))


def _needs(table: RunTable) -> None:
    table.read_by(("N", "D"))
