"""From a table of runs to the parameters of a law: starts by variable projection, the best of them polished, all optima told.

The search is not a grid of starts polished one by one. Where a law is a sum of terms, a grid stands over its exponents
only, and the heights are solved for at each point; the sixteen best points that lie apart are polished. Other laws are
started from points spread evenly over their bounds. What a reader needs to know whether to believe the numbers comes with
them: every distinct optimum nearly as good as the best, parameters at their bounds, and how badly conditioned the problem
is.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, NamedTuple

import numpy as np

from gyral.errors import ConfigError, InputError
from gyral.law import kernel
from gyral.law.forms import Form
from gyral.law.runs import Columns

NUM_POLISHED, NUM_FROM_FEW, FEW_ROWS = 16, 64, 60
"""Starts that are polished; more where few rows leave the objective a long, flat valley, in which polishing ends early."""
MOST_AGAIN, LEAST_FALL = 8, 1e-9
"""Times that the best is polished anew while its objective falls by more than this share."""
NUM_SPREAD = 96
"""Starts of a law that is no sum of terms."""
NEAR = 5e-3
"""Another optimum is told if its objective is within this share of the best."""
APART = 1e-3
"""Relative difference of told parameters from which two optima are two."""
LAD_DELTAS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
ILL_CONDITIONED = 1e8


class Loss(NamedTuple):
    """What a residual costs.

    Attributes
    ----------
    kind : `huber`, `lad` (absolute deviations) or `squared` (half the square).
    delta : of Huber's.
    is_log : residuals are of logarithms, else of values.
    """

    kind: Literal["huber", "lad", "squared"] = "huber"
    delta: float = 1e-3
    is_log: bool = True

    @property
    def deltas(self) -> tuple[float, ...]:
        """For the solver, one after the other."""
        return {"huber": (self.delta,), "lad": LAD_DELTAS, "squared": (math.inf,)}[self.kind]

    def objective(self, value: float) -> float:
        """From the solver's last value to the sum that is told."""
        return value / LAD_DELTAS[-1] + 0.0 if self.kind == "lad" else value


def loss_of(text: str) -> Loss:
    """Read `huber:1e-3`, `lad`, `squared`, and each with `:linear` for residuals of values.

    Raises
    ------
    ConfigError : it is none of these.
    """
    kind, *rest = text.split(":")
    is_log = "linear" not in rest
    numbers = [each for each in rest if each not in ("linear", "log")]
    hint = "write `huber:1e-3`, `lad` or `squared`; `:linear` behind it takes residuals of values, not of logarithms"
    try:
        delta = float(numbers[0]) if numbers else 1e-3
    except ValueError:
        delta = 0.0
    if kind not in ("huber", "lad", "squared") or len(numbers) > (kind == "huber") or not 0 < delta < math.inf:
        raise ConfigError(f"`{text}` is no loss", where="law.loss", hint=hint)
    return Loss(kind, delta, is_log)  # type: ignore[arg-type]


class Rows(NamedTuple):
    """What is fitted: the rows of a form, the logarithms of what was observed, and how much each counts."""

    x_nM: np.ndarray
    y_n: np.ndarray
    w_n: np.ndarray

    def taken(self, which: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(self.x_nM[which], self.y_n[which], self.w_n[which])


class Optimum(NamedTuple):
    """One place where the objective ends falling; `theta` as it is fitted."""

    theta: np.ndarray
    objective: float


class Fitted(NamedTuple):
    """A law that was fitted.

    Attributes
    ----------
    optima : distinct ones within half a per cent of the best, which is the first.
    condition : of the curvature at the best, scaled by its diagonal: large where parameters stand in for each other.
    at_bound : names of parameters at a bound.
    num_rows : that were fitted.
    """

    form: Form
    loss: Loss
    optima: tuple[Optimum, ...]
    condition: float
    at_bound: tuple[str, ...]
    num_rows: int

    @property
    def theta(self) -> np.ndarray:
        """The best parameters, as they are fitted."""
        return self.optima[0].theta

    @property
    def objective(self) -> float:
        """Of the best, summed over rows."""
        return self.optima[0].objective

    @property
    def parameters(self) -> dict[str, float]:
        """The best parameters, as they are told."""
        return dict(zip(self.form.names, map(float, self.form.told(self.theta)), strict=True))

    @property
    def is_identified(self) -> bool:
        """One optimum, none of its parameters at a bound, and its parameters do not stand in for each other."""
        return len(self.optima) == 1 and not self.at_bound and self.condition < ILL_CONDITIONED

    def predict(self, columns: Columns) -> np.ndarray:
        """What the law says, n."""
        return self.form.loss(self.theta, columns)


def rows_of(form: Form, columns: Columns, observed_n: np.ndarray, weight_n: np.ndarray | None = None) -> Rows:
    """Lay out a table for a form.

    Raises
    ------
    InputError : there are fewer rows than parameters.
    """
    num = len(observed_n)
    if num < len(form.parameters):
        why = f"{num} rows, {len(form.parameters)} parameters"
        raise InputError(f"`{form.name}` cannot be fitted", why=why, hint="more runs, or a form with fewer parameters")
    weight_n = np.ones(num) if weight_n is None else np.asarray(weight_n, np.float64)
    return Rows(np.ascontiguousarray(form.rows(columns)), np.log(np.asarray(observed_n, np.float64)), weight_n)


def fit(form: Form, rows: Rows, loss: Loss | None = None) -> Fitted:
    """Fit a law.

    Notes
    -----
    **Source**: variable projection, Golub and Pereyra 1973; that it makes this problem well conditioned was found by
    others before (see `dev/LOG.md`).
    """
    loss = loss or Loss()
    low, high = form.low, form.high
    found_SP, value_S = _starts(form, rows), np.zeros(0)
    for delta in loss.deltas:
        found_SP, value_S = kernel.polish_many(form.code, found_SP, *rows, low, high, delta, loss.is_log)
    for _ in range(MOST_AGAIN):
        s = int(value_S.argmin())
        again_1P, value_1 = kernel.polish_many(form.code, found_SP[[s]], *rows, low, high, loss.deltas[-1], loss.is_log)
        if not value_1[0] < value_S[s] * (1 - LEAST_FALL):
            break
        found_SP[s], value_S[s] = again_1P[0], value_1[0]
    order = np.argsort(value_S, kind="stable")
    best = value_S[order[0]]
    if not np.isfinite(best):
        raise InputError(f"`{form.name}` fits none of these rows", hint="are the losses and the columns those it is for?")
    optima: list[Optimum] = []
    for s in order:
        if value_S[s] > best * (1 + NEAR) + 1e-300:
            break
        told = form.told(found_SP[s])
        if all(_are_apart(told, form.told(each.theta)) for each in optima):
            optima.append(Optimum(found_SP[s], loss.objective(float(value_S[s]))))
    theta = optima[0].theta
    margin = 1e-6 * np.maximum(1.0, np.abs(theta))
    is_at = (low < high) & ((theta <= low + margin) | (theta >= high - margin))
    at_bound = tuple(name for name, at in zip(form.names, is_at, strict=True) if at)
    return Fitted(form, loss, tuple(optima), _condition(form, theta, rows), at_bound, int((rows.w_n > 0).sum()))


def _are_apart(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.max(np.abs(one - other) / np.maximum(np.abs(one) + np.abs(other), 1e-9)) > APART)


def _starts(form: Form, rows: Rows) -> np.ndarray:
    """Where polishing begins, S × P."""
    if not form.linear:
        return _spread(form, rows)
    free = [p for p, each in enumerate(form.parameters) if each.grid]
    points = np.array(list(itertools.product(*(form.parameters[p].grid for p in free))))
    theta_SP = np.zeros((len(points), len(form.parameters)))
    theta_SP[:, free] = points
    theta_SP, value_S = kernel.grid(rows.x_nM, rows.y_n, rows.w_n, theta_SP, np.array(form.linear))
    theta_SP = np.minimum(np.maximum(theta_SP, form.low), form.high)
    order = np.argsort(value_S, kind="stable")
    taken = [order[0]]
    step = [form.parameters[p].grid[1] / form.parameters[p].grid[0] for p in free]
    most = NUM_POLISHED if len(rows.y_n) > FEW_ROWS else NUM_FROM_FEW
    for s in order[1:]:
        if len(taken) == most or value_S[s] > 4 * value_S[order[0]] + 1e-12:
            break
        ratio = np.abs(np.log(points[s] / points[taken])) / np.log(step)
        if (ratio.max(axis=1) > 1.5).all():  # no neighbour of one that is taken
            taken.append(s)
    return np.ascontiguousarray(theta_SP[taken])


def _spread(form: Form, rows: Rows) -> np.ndarray:
    """Points spread evenly over the bounds, the best sixteen after a few steps each.

    **Source**: Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018): the R_d sequence.
    """
    P = len(form.parameters)
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (P + 1))
    unit_SP = (0.5 + np.outer(np.arange(1, NUM_SPREAD + 1), ratio ** -np.arange(1.0, P + 1))) % 1
    low, high = _inner(form, rows)
    return np.ascontiguousarray(low + unit_SP * (high - low))


def _inner(form: Form, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of starts: narrower than those of the fit where the rows say more."""
    low, high = form.low.copy(), form.high.copy()
    least, most = float(rows.y_n.min()), float(rows.y_n.max())
    for p, each in enumerate(form.parameters):
        if each.name == "E":
            low[p], high[p] = least - 3, least
        elif each.name == "epsilon":
            low[p], high[p] = most, most + 1
        elif each.grid:
            low[p], high[p] = each.grid[0], min(each.grid[-1], 1.0)
        elif each.name == "L0-E":
            low[p], high[p] = most - 2, most + 2
        elif each.name == "d":
            low[p], high[p] = float(rows.x_nM[:, 0].min()), float(rows.x_nM[:, 0].max())
    return low, high


def _condition(form: Form, theta: np.ndarray, rows: Rows) -> float:
    P = len(theta)
    g, inner, outer = np.empty(P), np.empty((P, P)), np.empty((P, P))
    kernel._sums(form.code, theta, rows.x_nM, rows.y_n, rows.w_n, math.inf, True, True, g, inner, outer)
    curvature = np.tril(inner) + np.tril(inner, -1).T
    scale = np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    return float(np.linalg.cond(curvature / np.outer(scale, scale)))
