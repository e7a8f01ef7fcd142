"""From loss to downstream error: error = ε - k exp(-γ L), fitted to what runs of any size show, and fed with a predicted loss.

Errors of tasks are near chance for small runs and noisy for all, while losses are smooth; so a run's loss is foretold from
its size, and its error from that loss. The link is fitted to measured losses; what is asked is the error at a *predicted*
loss, so an error of the loss law goes through. On published runs that reproduces what their authors foretold before
(`tests/law/test_link.py`).

What is uncertain is both: draws of the loss, and bootstraps of the link with its residuals. Six runs and three parameters
leave little to see that by, and intervals say so.

**Source**: Gadre et al., 2403.08540, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gyral.errors import InputError
from gyral.law import fit as solver
from gyral.law import intervals, kernel
from gyral.law.fit import Fitted, Loss, Rows, loss_of, rows_of
from gyral.law.forms import find
from gyral.law.intervals import Interval

LEAST_ROWS = 4
LEAST_DISTINCT = 4
"""Runs of a bootstrap that differ: three parameters through three points leave nothing over."""


@dataclass(frozen=True)
class Link:
    """A fitted link.

    Attributes
    ----------
    fitted : ε, k and γ, with how well they are identified.
    rows : losses and log errors that were fitted.
    theta_BP : bootstraps.
    noise : standard deviation of residuals, in units of error.
    """

    fitted: Fitted
    rows: Rows
    theta_BP: np.ndarray
    noise: float

    def predict(self, loss_n: np.ndarray) -> np.ndarray:
        """Errors, n."""
        return self.fitted.predict({"L": np.atleast_1d(np.asarray(loss_n, np.float64))})

    def reach(self, loss_n: np.ndarray) -> np.ndarray:
        """How far below the least loss that was fitted, n; 0 within it."""
        return np.asarray(np.maximum(0.0, self.rows.x_nM[:, 0].min() - np.atleast_1d(loss_n)))

    def sample(self, loss_Sn: np.ndarray, seed: int = 0) -> np.ndarray:
        """Errors that may come, S × n: each draw of the loss through a bootstrap of the link, with its noise; within 0 and 1.

        Parameters
        ----------
        loss_Sn : draws of the loss, as `Law.sample` gives them; one row repeated where it is known.
        """
        rng = np.random.default_rng(seed)
        chosen = self.theta_BP[rng.integers(0, len(self.theta_BP), len(loss_Sn))]
        form = self.fitted.form
        with np.errstate(invalid="ignore"):
            told = np.stack([form.loss(theta, {"L": loss}) for theta, loss in zip(chosen, loss_Sn, strict=True)])
        told = np.where(np.isfinite(told), told, 0.0)  # a loss so low that the link says no error is left
        return np.clip(told + self.noise * rng.standard_normal(told.shape), 0.0, 1.0)

    def interval(self, loss_Sn: np.ndarray, level: float = 0.8, seed: int = 0) -> list[Interval]:
        """Of each column of `sample`."""
        return [intervals.percentiles(column, level) for column in self.sample(loss_Sn, seed).T]


def fit(
    loss_n: np.ndarray,
    error_n: np.ndarray,
    run: np.ndarray | None = None,
    *,
    loss: Loss | None = None,
    num: int = 1_000,
    seed: int = 0,
) -> Link:
    """Fit a link.

    Parameters
    ----------
    loss_n : measured losses.
    error_n : 1 - accuracy, between 0 and 1.
    run : labels; rows of one run are drawn together.
    loss : of residuals; squares of errors as they are, as its authors have it, where none is given.
    num : bootstraps.

    Raises
    ------
    InputError : rows are too few, or an error is not between 0 and 1.
    """
    loss_n, error_n = np.asarray(loss_n, np.float64), np.asarray(error_n, np.float64)
    if len(loss_n) != len(error_n) or len(loss_n) < LEAST_ROWS:
        why = f"{len(loss_n)} losses and {len(error_n)} errors; {LEAST_ROWS} runs are the least"
        raise InputError("too few runs for a link from loss to error", why=why, hint="small runs count too: evaluate them")
    wrong = np.flatnonzero(~((error_n > 0) & (error_n < 1) & np.isfinite(loss_n) & (loss_n > 0)))
    if len(wrong):
        row = int(wrong[0])
        what = f"row {row + 1} has loss {loss_n[row]:g} and error {error_n[row]:g}"
        raise InputError(what, hint="errors are shares, 1 - accuracy, above 0 and below 1; losses are above 0")
    form = find("link")
    rows = rows_of(form, {"L": loss_n}, error_n)
    fitted = solver.fit(form, rows, loss or loss_of("squared:linear"))
    off = fitted.predict({"L": loss_n}) - error_n
    noise = float(np.sqrt(off @ off / max(1, len(off) - len(form.parameters))))
    run = np.arange(len(loss_n)) if run is None else np.asarray(run)
    weights = intervals.drawn(run, num, seed)
    distinct = np.array([len(set(loss_n[row > 0].tolist())) for row in weights])
    weights = weights[distinct >= min(LEAST_DISTINCT, len(set(loss_n.tolist())))]
    theta, value = kernel.bootstrap(
        form.code, np.ascontiguousarray(fitted.theta[None]), rows.x_nM, rows.y_n, weights, form.low, form.high,
        fitted.loss.deltas[-1], fitted.loss.is_log,
    )  # fmt: skip
    theta = theta[np.isfinite(value)]
    return Link(fitted, rows, theta if len(theta) else fitted.theta[None], noise)
