"""How sure: bootstraps over runs for parameters and predictions, profiles for single parameters.

Percentiles of a bootstrap are what is told. Simulated, nominal 90 % intervals of parameters hold the truth in about nine of
ten sets (`tests/law/test_intervals.py` and the leaderboard have the counts). Rows of one run are drawn together:
intermediate checkpoints are no evidence of their own.

Losses that are nearly absolute deviations make a bootstrap jump from row to row, and the fewer rows, the wider its intervals.
So bootstraps round the corner of such a loss off, within 1.5 n^(-1/4) deviations of the residuals (half of one for 60 to 100
rows), which leaves out no row and moves the estimate by far less than it is known to.

**Source**: Horowitz, Econometrica 66 (1998): smoothed least absolute deviations, for which the bootstrap is right to a higher
order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gyral.law import kernel
from gyral.law.fit import Fitted, Rows
from gyral.law.runs import Columns

CHI2_95 = 3.841458820694124
"""Of one degree of freedom."""
SMOOTH = 1.5
"""Deviations of residuals, times n^(-1/4), within which bootstraps take squares."""


class Interval(NamedTuple):
    """From, to."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether it is inside."""
        return self.low <= value <= self.high


def drawn(run: np.ndarray, num: int, seed: int) -> np.ndarray:
    """How much each row counts in each of `num` bootstraps, num × n: a weight for each run, its rows together, 1 on average.

    Weights are exponential (the Bayesian bootstrap), not counts: with losses that are nearly absolute deviations, counts jump
    between rows and their intervals are too wide, 95 to 97 % for 90 % where these have 89 to 97.

    **Source**: Rubin, Annals of Statistics 9 (1981).
    """
    _, group = np.unique(run, return_inverse=True)
    weight = np.random.default_rng(seed).exponential(size=(num, int(group.max()) + 1))
    weight /= weight.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(weight[:, group])


def bootstrap(fitted: Fitted, rows: Rows, run: np.ndarray, num: int = 4_000, seed: int = 0) -> np.ndarray:
    """Parameters (as they are fitted) of `num` bootstraps, num × P; fits start from every optimum."""
    starts = np.ascontiguousarray(np.stack([each.theta for each in fitted.optima[:4]]))
    weights = drawn(run, num, seed) * rows.w_n
    form = fitted.form
    used = rows.taken(np.flatnonzero(rows.w_n))
    r = _residuals(fitted, used)
    delta = max(fitted.loss.deltas[-1], SMOOTH * len(r) ** -0.25 * 1.4826 * float(np.median(np.abs(r))))
    if fitted.loss.kind == "lad":
        delta = max(delta, 1e-5)
    found, value = kernel.bootstrap(
        form.code, starts, rows.x_nM, rows.y_n, weights, form.low, form.high, delta, fitted.loss.is_log
    )
    return found[np.isfinite(value)]


def _residuals(fitted: Fitted, rows: Rows) -> np.ndarray:
    told = kernel.predicted(fitted.form.code, fitted.theta, rows.x_nM)
    return told - rows.y_n if fitted.loss.is_log else np.exp(told) - np.exp(rows.y_n)


def percentiles(values: np.ndarray, level: float = 0.95) -> Interval:
    """The middle of a distribution."""
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))


def of_parameters(fitted: Fitted, theta_BP: np.ndarray, level: float = 0.95) -> dict[str, Interval]:
    """Intervals of parameters as they are told."""
    told_BP = fitted.form.told(theta_BP)
    return {name: percentiles(told_BP[:, p], level) for p, name in enumerate(fitted.form.names)}


def width_of_size(fitted: Fitted, theta_BP: np.ndarray) -> float | None:
    """Width of the 95 % interval of a in N* ~ C^a; None where the form does not say it."""
    names = fitted.form.names
    if not {"alpha", "beta"} <= set(names):
        return None
    told_BP = fitted.form.told(theta_BP)
    alpha, beta = (told_BP[:, names.index(name)] for name in ("alpha", "beta"))
    low, high = percentiles(beta / (alpha + beta))
    return high - low


def of_losses(fitted: Fitted, theta_BP: np.ndarray, columns: Columns) -> np.ndarray:
    """What each bootstrap says of each row, B × n."""
    rows = fitted.form.rows(columns)
    return np.exp(np.stack([kernel.predicted(fitted.form.code, theta, rows) for theta in theta_BP]))


def profile(fitted: Fitted, rows: Rows, name: str, points: int = 41) -> tuple[Interval, np.ndarray, np.ndarray]:
    """One parameter held at each of many values, the others refitted: its 95 % interval, the values, and the objectives.

    The interval is where the objective rises by no more than τ χ²/2, τ = Σψ² / Σψ' of the residuals at the best.

    Notes
    -----
    **Source**: Venzon and Moolgavkar, Applied Statistics 37 (1988); for M-estimators Ronchetti, Statistics & Probability
    Letters 1 (1982).
    """
    p = fitted.form.names.index(name)
    delta = fitted.loss.deltas[-1]
    form, best = fitted.form, fitted.theta
    r = _residuals(fitted, rows)
    psi = np.clip(r, -delta, delta)
    bend = max(1.0, float((rows.w_n * (np.abs(r) <= delta)).sum()))
    spare = max(1.0, rows.w_n.sum() - len(best)) / max(1.0, rows.w_n.sum())
    limit = float((rows.w_n * psi**2).sum()) / bend / spare * CHI2_95 / 2
    low, high = form.low.copy(), form.high.copy()

    def held(value: float, start: np.ndarray) -> tuple[np.ndarray, float]:
        low[p] = high[p] = value
        theta, objective, _ = kernel.polish(form.code, start, *rows, low, high, delta, fitted.loss.is_log)
        return theta, objective

    _, least = held(float(best[p]), best)
    sides = []
    for sign in (-1.0, 1.0):
        step, at, theta, side = max(abs(best[p]), 0.1) * 0.01, float(best[p]), best, []
        bound = form.low[p] if sign < 0 else form.high[p]
        for _ in range(points * 2):
            at = min(max(at + sign * step, form.low[p]), form.high[p])
            theta, objective = held(at, theta)
            side.append((at, objective))
            if objective - least > 2 * limit or at == bound:
                break
            step *= 1.25
        sides.append(side)
    whole = [*sides[0][::-1], (float(best[p]), least), *sides[1]]
    at_n, value_n = np.array([a for a, _ in whole]), np.array([v for _, v in whole])
    middle = len(sides[0])
    rise = value_n - least - limit
    left = _crossing(at_n[: middle + 1][::-1], rise[: middle + 1][::-1])
    right = _crossing(at_n[middle:], rise[middle:])
    tell = form.parameters[p].told
    return Interval(float(tell(left)), float(tell(right))), np.asarray(tell(at_n)), value_n


def _crossing(at: np.ndarray, rise: np.ndarray) -> float:
    """Where the rise first passes zero, by a line between neighbours; the end where it never does."""
    over = np.flatnonzero(rise > 0)
    if not len(over):
        return float(at[-1])
    i = int(over[0])
    if i == 0:
        return float(at[0])
    share = rise[i - 1] / (rise[i - 1] - rise[i])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))
