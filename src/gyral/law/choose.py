"""Which law: several are fitted, each on all of the table and with its small runs counting less, and weighted by how well they
foretold what was held out.

A law that fits the rows at hand says little about larger runs: over the public tables the form with the best fit is rarely
the one that extrapolates best. So the top of the table is held out (all runs above a third, then above a ninth, of the
largest compute), each candidate is fitted to the rest and foretells it, and weighs 1 / error². The mean of these errors is
also what an extrapolation of this table is worth, and goes into the intervals.

Small runs count (C / C max)^ω. With ω = .2 or .4 a law bends to the runs that are near to what is asked; the largest misfit of
public tables is the smallest models, which obey no law at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.law import intervals
from gyral.law.fit import Fitted, Loss, Rows, fit, rows_of
from gyral.law.forms import Form, find
from gyral.law.runs import Columns, RunTable

HELD_OUT = (3.0, 9.0)
"""Rows within these factors of the largest compute are foretold from the others."""
OMEGAS = (0.0, 0.2, 0.4)
TWO_AXES, ONE_AXIS = ("chinchilla", "tied", "kaplan"), ("power_floor", "power", "m4", "broken")
LEAST_ERROR = 1e-4
LEAST_SHARE = 0.02
"""Members that weigh less are left out."""
MEAN_TO_SIGMA = math.sqrt(math.pi / 2)
"""From a mean absolute error to a standard deviation."""


class Member(NamedTuple):
    """One candidate.

    Attributes
    ----------
    omega : exponent by which small runs count less.
    error : mean |log foretold - log observed| of what was held out; NaN: the table is too small to hold something out.
    """

    fitted: Fitted
    rows: Rows
    omega: float
    error: float
    weight: float


@dataclass(frozen=True)
class Law:
    """What a table of runs says.

    Attributes
    ----------
    members : heaviest first; weights sum to 1.
    error : weighted mean of their errors in foretelling; NaN where nothing could be held out.
    """

    members: tuple[Member, ...]
    table: RunTable

    @property
    def best(self) -> Fitted:
        """The heaviest."""
        return self.members[0].fitted

    @property
    def axes(self) -> tuple[str, ...]:
        """Columns that a prediction needs."""
        return tuple(dict.fromkeys(axis for each in self.members for axis in each.fitted.form.axes))

    @property
    def error(self) -> float:
        """How far off what was held out, on average."""
        return math.fsum(each.weight * each.error for each in self.members)

    @property
    def noise(self) -> float:
        """Standard deviation of log loss between runs that are alike: as the table says, else of the residuals (robust)."""
        told = self.table.columns.get("noise")
        if told is not None and np.isfinite(told).any():
            return float(np.nanmedian(told / self.table.loss))
        rows = self.members[0].rows
        residual = np.log(self.best.predict(self.table.read_by(self.best.form.axes))) - rows.y_n
        return 1.4826 * float(np.median(np.abs(residual)))

    def columns(self, asked: Columns) -> Columns:
        """`asked` with what follows from it: `C`, and `x`, which is compute."""
        found = {name: np.atleast_1d(np.asarray(value, np.float64)) for name, value in asked.items()}
        if "C" not in found and "N" in found and "D" in found:
            ratio = self.table.columns["C"] / (self.table.columns["N"] * self.table.columns["D"])
            found["C"] = float(np.median(ratio)) * found["N"] * found["D"]
        if "x" not in found and "C" in found:
            found["x"] = found["C"]
        missing = [name for name in self.axes if name not in found]
        if missing:
            raise InputError(f"`{missing[0]}` is not said", hint=f"the law reads {', '.join(self.axes)}")
        return found

    def predict(self, asked: Columns) -> np.ndarray:
        """Loss, n: the weighted geometric mean of the members."""
        columns = self.columns(asked)
        logs = sum(each.weight * np.log(each.fitted.predict(columns)) for each in self.members)
        return np.exp(np.asarray(logs))

    def reach(self, asked: Columns) -> np.ndarray:
        """Decades beyond the largest compute of the table, n; 0 within it."""
        columns = self.columns(asked)
        axis = columns.get("C", next(iter(columns.values())))
        return np.maximum(0.0, np.log10(axis / self.table.axis().max()))

    def bootstrapped(self, asked: Columns, num: int, seed: int = 0) -> np.ndarray:
        """What bootstraps say of each row, about num × n: of every member as many as it weighs."""
        columns, parts = self.columns(asked), []
        shares = np.maximum(1, np.round(num * np.array([each.weight for each in self.members])).astype(int))
        for m, (each, share) in enumerate(zip(self.members, shares, strict=True)):
            theta = intervals.bootstrap(each.fitted, each.rows, self.table.run, int(share), seed + m)
            parts.append(intervals.of_losses(each.fitted, theta, columns))
        return np.concatenate(parts)

    def excess(self, asked: Columns, i: int, level: float, num: int, seed: int = 0) -> float:
        """How far row i ends above the best row at most, as a share of the loss, with a probability of `level`."""
        told_Bn = self.bootstrapped(asked, num, seed)
        return float(np.quantile(told_Bn[:, i] / told_Bn.min(axis=1) - 1, level))

    def sample(self, asked: Columns, num: int = 4_000, seed: int = 0) -> np.ndarray:
        """What may come, num × n: members by weight, bootstraps of each, the error of foretelling, noise between runs.

        The error of foretelling is a factor common to a draw. It is that of what was held out, whose middle lies `HELD_OUT`
        beyond what was fitted, in proportion to how many decades beyond the table is asked; inside the table it is nothing.
        """
        columns = self.columns(asked)
        rng = np.random.default_rng(seed)
        drawn = np.log(self.bootstrapped(columns, num, seed))
        size = drawn.shape[1]
        usual = np.mean([math.log10(factor) for factor in HELD_OUT])
        error = 0.0 if math.isnan(self.error) else self.error * MEAN_TO_SIGMA
        scale = error * self.reach(columns) / usual
        off = rng.standard_normal((len(drawn), 1)) * scale + rng.standard_normal((len(drawn), size)) * self.noise
        return np.exp(drawn + off)


def choose(table: RunTable, form: str = "auto", loss: Loss | None = None) -> Law:
    """Fit one form, or several weighted by what they foretold.

    Raises
    ------
    InputError : no form can be fitted to this table.
    """
    loss = loss or Loss()
    names = candidates(table) if form == "auto" else (form,)
    omegas = OMEGAS if form == "auto" else (0.0,)
    found, refused = [], None
    for name in names:
        for omega in omegas:
            try:
                found.append(_member(find(name), table, loss, omega))
            except InputError as error:
                refused = error
    if not found:
        raise refused or InputError("no form can be fitted", where=table.source)
    held = [each for each in found if not math.isnan(each.error)]
    if not held:  # nothing could be held out: the plainest, as it is
        return Law((min(found, key=lambda each: (each.omega, each.fitted.objective))._replace(weight=1.0),), table)
    weights = np.array([1 / max(each.error, LEAST_ERROR) ** 2 for each in held])
    weights /= weights.sum()
    keep = weights >= min(LEAST_SHARE, weights.max())
    weights = weights * keep / (weights * keep).sum()
    members = [each._replace(weight=float(weight)) for each, weight in zip(held, weights, strict=True) if weight]
    return Law(tuple(sorted(members, key=lambda each: -each.weight)), table)


def candidates(table: RunTable) -> tuple[str, ...]:
    """Forms that read this table's columns."""
    if "experts" in table.columns and "N" in table.columns and "D" not in table.columns:
        return ("routing",)
    if "N" in table.columns and "D" in table.columns:
        repeated = "D_unique" in table.columns and bool((table.columns["D_unique"] < table.columns["D"] * 0.999).any())
        return ("data_constrained",) if repeated else TWO_AXES
    return ONE_AXIS


def weights_of(table: RunTable, omega: float) -> np.ndarray:
    """How much each row counts, 1 on average."""
    axis = table.axis()
    weight = (axis / axis.max()) ** omega
    return np.asarray(weight / weight.mean())


def foretold(form: Form, table: RunTable, loss: Loss, omega: float, factors: Sequence[float] = HELD_OUT) -> float:
    """Mean |log foretold - log observed| of the top of the table; NaN where too little is left to fit."""
    axis, errors = table.axis(), []
    for factor in factors:
        below = axis <= axis.max() / factor * (1 + 1e-9)
        if below.sum() < len(form.parameters) + 1 or below.all():
            continue
        lower, upper = table.taken(below), table.taken(~below)
        fitted = fit(form, rows_of(form, lower.read_by(form.axes), lower.loss, weights_of(lower, omega)), loss)
        with np.errstate(invalid="ignore"):
            errors.append(float(np.mean(np.abs(np.log(fitted.predict(upper.read_by(form.axes)) / upper.loss)))))
    return float(np.mean(errors)) if errors else math.nan


def _member(form: Form, table: RunTable, loss: Loss, omega: float) -> Member:
    rows = rows_of(form, table.read_by(form.axes), table.loss, weights_of(table, omega))
    fitted = fit(form, rows, loss)
    return Member(fitted, rows, omega, foretold(form, table, loss, omega), 0.0)
