"""The best learning rate and batch of each size and amount of data, and power laws through them.

Loss over the logarithms of rate and batch is a bowl near its least. So a quadratic is fitted to each cell of runs that share
N and D (a parabola where all have one batch), its bottom is the best of that cell, and straight lines through the logarithms
of the bottoms say what is best elsewhere: rate over N and D, batch over D. A run far up the side says little of the bottom
and counts less: half as much for each gap that a quarter of the cell's runs stay within.

A bowl whose bottom lies outside what was tried is no measurement: such a cell has no part in the lines, and names the run
that would show it. Intervals are bootstraps over cells, and over residuals within each: simulated, nominal 90 % hold the truth
in 97 % (12 cells) and 98 % (5 cells). Over cells alone they would in 82 and 86 %.

**Source**: Li et al. (Step Law), 2503.04715: lr = 1.79 N^-0.713 D^0.307, batch = 0.58 D^0.571 tokens, on their runs;
McCandlish et al., 1812.06162, for why the best batch follows the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.law.intervals import Interval, percentiles
from gyral.law.runs import RunTable
from gyral.law.sweep import Stop

KNOBS = ("lr", "batch")
READS: Mapping[str, tuple[str, ...]] = {"lr": ("N", "D"), "batch": ("D",)}
"""What the best of each knob is a power of, as far as the table varies it."""
LEAST_VALUES = 3
"""Of a knob, for it to have a bottom."""
SAME_CELL = 0.02
"""Runs whose natural logarithms of N and D differ by less are of one cell: counts of tokens are rounded to whole batches."""
NEXT = 2.0
"""Factor beyond the edge of a sweep of the next run."""


class Bowl(NamedTuple):
    """One cell.

    Attributes
    ----------
    best : knob → value at the bottom; where there is none inside, of the best run.
    loss : at the bottom.
    edge : knobs whose bottom was not found inside what was tried.
    ahead : for each of these, the value to try next.
    rows : numbers of its rows in the table.
    """

    N: float
    D: float
    best: dict[str, float]
    loss: float
    edge: tuple[str, ...]
    ahead: dict[str, float]
    rows: np.ndarray

    @property
    def is_inside(self) -> bool:
        """Whether its bottom was measured."""
        return not self.edge


class Power(NamedTuple):
    """best = coefficient · N^exponent · D^exponent, with what is sure of it.

    Attributes
    ----------
    exponents : of the columns it reads.
    draws : B × (1 + columns): logarithm of the coefficient, then exponents, of bootstraps.
    """

    knob: str
    coefficient: float
    exponents: dict[str, float]
    draws: np.ndarray
    cells: int

    def value(self, **asked: float) -> float:
        """The best for `N=…` and `D=…`."""
        return float(self.coefficient * math.prod(asked[name] ** power for name, power in self.exponents.items()))

    def interval(self, level: float = 0.95, **asked: float) -> Interval:
        """Of `value`."""
        at = np.array([1.0, *(math.log(asked[name]) for name in self.exponents)])
        low, high = percentiles(self.draws @ at, level)
        return Interval(math.exp(low), math.exp(high))

    def of_exponents(self, level: float = 0.95) -> dict[str, Interval]:
        """Intervals of the exponents."""
        return {name: percentiles(self.draws[:, 1 + i], level) for i, name in enumerate(self.exponents)}

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        spread = {name: list(each) for name, each in self.of_exponents().items()}
        told = {"knob": self.knob, "coefficient": self.coefficient, "exponents": self.exponents, "cells": self.cells}
        return {**told, "exponents_95": spread}


@dataclass(frozen=True)
class BestKnobs:
    """What a table of sweeps says: its cells, a law for each knob that has one, and what is wrong with the sweep."""

    bowls: tuple[Bowl, ...]
    laws: Mapping[str, Power]
    stops: tuple[Stop, ...]


class _Cell(NamedTuple):
    """What a bootstrap needs of a bowl: from losses to its quadratic, fitted values and residuals."""

    knobs: tuple[str, ...]
    middle: np.ndarray
    solve_Fn: np.ndarray
    told_n: np.ndarray
    off_n: np.ndarray


def fit(table: RunTable, *, num: int = 1_000, seed: int = 0) -> BestKnobs:
    """Bowls of all cells, and power laws through those whose bottom was measured.

    Parameters
    ----------
    table : with `lr`, `N`, `D`, and `batch` where it was varied; one row a run.
    num : bootstraps.

    Raises
    ------
    InputError : a column is missing, or no cell has runs enough for a bowl.
    """
    columns = table.read_by(("N", "D", "lr"))
    columns = {**columns, **({"batch": table.columns["batch"]} if "batch" in table.columns else {})}
    bowls, cells = [], []
    for rows in _cells(columns["N"], columns["D"]):
        found = _bowl(columns, np.log(table.loss), rows)
        if found is not None:
            bowls.append(found[0])
            cells.append(found[1])
    if not bowls:
        why = f"no pair of N and D has {LEAST_VALUES} learning rates or more, with runs enough for a bowl"
        raise InputError(
            "there is no bowl to fit", where=table.source, why=why, hint="sweep `lr` at some sizes, by factors of 2"
        )
    laws, stops = {}, [_stop(each, knob) for each in bowls for knob in each.edge]
    for knob in KNOBS:
        used = [i for i, each in enumerate(bowls) if each.is_inside and knob in each.best and knob in cells[i].knobs]
        names = _varied([bowls[i] for i in used], READS[knob])
        if len(used) >= len(names) + 2 and names:
            laws[knob] = _power(knob, names, [bowls[i] for i in used], [cells[i] for i in used], num, seed)
        elif used:
            what = f"{len(used)} cells show a best `{knob}`"
            stops.append(Stop("cells", what, f"a sweep of `{knob}` at another N and D"))
    return BestKnobs(tuple(bowls), laws, tuple(stops))


def _cells(size_n: np.ndarray, data_n: np.ndarray) -> list[np.ndarray]:
    left, found = np.arange(len(size_n)), []
    while len(left):
        far = np.maximum(np.abs(np.log(size_n[left] / size_n[left[0]])), np.abs(np.log(data_n[left] / data_n[left[0]])))
        found.append(left[far < SAME_CELL])
        left = left[far >= SAME_CELL]
    return found


def _bowl(columns: Mapping[str, np.ndarray], y_all: np.ndarray, rows: np.ndarray) -> tuple[Bowl, _Cell] | None:
    knobs = tuple(k for k in KNOBS if k in columns and len(set(columns[k][rows].tolist())) >= LEAST_VALUES)
    y = y_all[rows]
    if "lr" not in knobs or len(rows) < (1, 3, 6)[len(knobs)]:
        return None
    x = np.log(np.stack([columns[k][rows] for k in knobs], axis=1))
    best_run = int(y.argmin())
    middle = x[best_run]
    gap = y - y.min()
    scale = max(float(np.percentile(gap, 25)), 1e-9)
    weight = 0.5 ** (gap / scale)
    design = _design(x - middle)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    root = np.sqrt(weight)
    solve = np.linalg.pinv(design * root[:, None]) * root
    theta = solve @ y
    bottom, is_bowl = _bottom(theta, len(knobs))
    at = bottom + middle if is_bowl else x[best_run]
    low, high = x.min(axis=0), x.max(axis=0)
    edge, ahead = [], {}
    for i, knob in enumerate(knobs):
        is_low = at[i] < low[i] if is_bowl else x[best_run, i] == low[i]
        is_high = at[i] > high[i] if is_bowl else x[best_run, i] == high[i]
        if is_low or is_high:
            edge.append(knob)
            ahead[knob] = float(np.exp(high[i]) * NEXT if is_high else np.exp(low[i]) / NEXT)
    if not is_bowl and not edge:  # flat or a saddle: nothing says where its bottom is
        edge, ahead = list(knobs), {knob: float(np.exp(x[best_run, i])) for i, knob in enumerate(knobs)}
    told = design @ theta
    if edge:
        at = x[best_run]
    loss = float(np.exp(_design((at - middle)[None]) @ theta)[0])
    best = {knob: float(np.exp(at[i])) for i, knob in enumerate(knobs)}
    size, data = (float(np.median(columns[name][rows])) for name in ("N", "D"))
    return Bowl(size, data, best, loss, tuple(edge), ahead, rows), _Cell(knobs, middle, solve, told, y - told)


def _design(x_nK: np.ndarray) -> np.ndarray:
    """1, x, x² and, of two, their product."""
    product = [x_nK[:, :1] * x_nK[:, 1:]] if x_nK.shape[1] == 2 else []
    return np.concatenate([np.ones((len(x_nK), 1)), x_nK, x_nK**2, *product], axis=1)


def _bottom(theta_F: np.ndarray, num: int) -> tuple[np.ndarray, bool]:
    """Where a quadratic of `num` knobs is least, and whether it is a bowl at all."""
    slope = theta_F[1 : 1 + num]
    curve = np.diag(2 * theta_F[1 + num : 1 + 2 * num])
    if num == 2:
        curve[0, 1] = curve[1, 0] = theta_F[5]
    if np.linalg.eigvalsh(curve).min() <= 1e-9:
        return np.zeros(num), False
    return -np.linalg.solve(curve, slope), True


def _varied(bowls: list[Bowl], names: tuple[str, ...]) -> tuple[str, ...]:
    """Columns that differ between cells; one of two that move together."""
    kept: list[str] = []
    for name in names:
        values = [np.log([getattr(each, other) for each in bowls]) for other in (*kept, name)]
        table = np.stack([np.ones(len(bowls)), *values], axis=1) if bowls else np.zeros((0, 1))
        if len(bowls) and np.linalg.matrix_rank(table - table.mean(axis=0), tol=1e-3) == len(values):
            kept.append(name)
    return tuple(kept)


def _power(knob: str, names: tuple[str, ...], bowls: list[Bowl], cells: list[_Cell], num: int, seed: int) -> Power:
    table = np.stack([np.ones(len(bowls)), *(np.log([getattr(each, name) for each in bowls]) for name in names)], axis=1)
    theta = np.linalg.lstsq(table, np.log([each.best[knob] for each in bowls]), rcond=None)[0]
    rng, draws = np.random.default_rng(seed), []
    for _ in range(num):
        chosen = rng.integers(0, len(bowls), len(bowls))
        if np.linalg.matrix_rank(table[chosen] - [1.0, *table[chosen, 1:].mean(axis=0)], tol=1e-3) < len(names):
            continue
        at, kept = [], []
        for i in chosen:
            cell = cells[i]
            spare = len(cell.off_n) - len(cell.solve_Fn)
            off = rng.choice(cell.off_n, len(cell.off_n)) * math.sqrt(len(cell.off_n) / max(1, spare))
            bottom, is_bowl = _bottom(cell.solve_Fn @ (cell.told_n + off), len(cell.knobs))
            if is_bowl:
                at.append((bottom + cell.middle)[cell.knobs.index(knob)])
                kept.append(i)
        if len(kept) > len(names):
            draws.append(np.linalg.lstsq(table[kept], np.array(at), rcond=None)[0])
    exponents = dict(zip(names, map(float, theta[1:]), strict=True))
    return Power(knob, math.exp(theta[0]), exponents, np.stack(draws) if draws else theta[None], len(bowls))


def _stop(bowl: Bowl, knob: str) -> Stop:
    value, others = bowl.ahead[knob], {name: at for name, at in bowl.best.items() if name != knob}
    at = "".join(f", {name} = {each:.3g}" for name, each in others.items())
    what = f"the best `{knob}` of N = {bowl.N:.3g}, D = {bowl.D:.3g} is not inside what was tried"
    return Stop("edge", what, f"a run of N = {bowl.N:.3g}, D = {bowl.D:.3g} with {knob} = {value:.3g}{at}")


def text(found: BestKnobs, asked: Mapping[str, float]) -> str:
    """What a table of sweeps says, for a person."""
    lines = [f"{len(found.bowls)} bowls"]
    for name, law in found.laws.items():
        spread = law.of_exponents()
        powers = " ".join(
            f"{on}^{power:.3f} ({spread[on].low:.3f} to {spread[on].high:.3f})" for on, power in law.exponents.items()
        )
        lines.append(f"best {name} = {law.coefficient:.4g} {powers}, through {law.cells} cells")
        if asked:
            low, high = law.interval(**asked)
            lines.append(f"  {law.value(**asked):.4g} for what is asked, 95 %: {low:.4g} to {high:.4g}")
    return "\n".join([*lines, *(f"note: {each.told}" for each in found.stops)])
