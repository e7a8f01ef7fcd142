"""Two laws from domain weights r to the loss of one target that say how it comes about, and so carry over to other scales.

| law | says | source |
|---|---|---|
| `exponential` | L = c + exp(k + t · r) | Ye et al., 2403.16952, equation 6 |
| `effective_data` | L = c + (ε + s · r)^-g, s ≥ 0: what a token is worth | a power of data, Hestness et al., 1712.00409 |

A is folded into s and ε. Each is fitted by least squares from several starts, with a prior so weak that it only holds what
the rows do not say (the worth of a domain that helps nothing). Losses are fitted in units of their own mean and standard
deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gyral.errors import InputError
from gyral.law.descent import squares

NUM_STARTS = 4
PULL = 1e-4
"""How much a parameter's square distance from the middle of its starts counts, against half a row's square residual."""
LEAST_WORTH = 1e-12

Value = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _exponential(theta_P: np.ndarray, weights_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """θ: c, k, t_D."""
    term = np.exp(np.minimum(theta_P[1] + weights_nD @ theta_P[2:], 50.0))
    jacobian = np.concatenate([np.ones((len(term), 1)), term[:, None], term[:, None] * weights_nD], axis=1)
    return theta_P[0] + term, jacobian


def _effective_data(theta_P: np.ndarray, weights_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """θ: c, log g, log ε, log s_D."""
    exponent, rest, worth = np.exp(theta_P[1]), np.exp(theta_P[2]), np.exp(theta_P[3:])
    data = np.maximum(rest + weights_nD @ worth, LEAST_WORTH)
    term = data**-exponent
    fall = -exponent * term / data
    jacobian = np.concatenate(
        [
            np.ones((len(term), 1)),
            (-exponent * np.log(data) * term)[:, None],
            (fall * rest)[:, None],
            fall[:, None] * weights_nD * worth,
        ],
        axis=1,
    )
    return theta_P[0] + term, jacobian


@dataclass(frozen=True)
class Kind:
    """One of the laws: its value with derivatives, and the middle of its starts (their spread is 1) without the domains."""

    value: Value
    head: tuple[float, ...]
    domain: float


KINDS = {
    "exponential": Kind(_exponential, (-2.0, 0.5), 0.0),
    "effective_data": Kind(_effective_data, (-2.0, -1.0, -2.0), -1.0),
}


@dataclass(frozen=True)
class Parametric:
    """A fitted law of one target; `theta_P` in units of `scale`, around `middle`."""

    name: str
    weights_nD: np.ndarray
    loss_n: np.ndarray
    theta_P: np.ndarray
    middle: float
    scale: float

    def predict(self, weights_mD: np.ndarray) -> np.ndarray:
        """Losses, m."""
        return self.middle + self.scale * KINDS[self.name].value(self.theta_P, weights_mD)[0]

    def refitted(self, count_n: np.ndarray) -> Parametric:
        """From where it is, each row counted so many times; those of 0 are left out."""
        keep = count_n > 0
        theta, _ = _solve(self, self.weights_nD[keep], self.loss_n[keep], count_n[keep], self.theta_P)
        return replace(self, theta_P=theta)


def fit(name: str, weights_nD: np.ndarray, loss_n: np.ndarray, seed: int = 0) -> Parametric:
    """Fit one of `KINDS`; the best of several starts.

    Raises
    ------
    InputError : no start leads anywhere.
    """
    kind, rng = KINDS[name], np.random.default_rng(seed)
    middle, scale = float(loss_n.mean()), max(float(loss_n.std()), 1e-12)
    empty = Parametric(name, weights_nD, loss_n, _middle(kind, weights_nD.shape[1]), middle, scale)
    best, least = empty.theta_P, np.inf
    for s in range(NUM_STARTS):
        start = empty.theta_P + (rng.standard_normal(len(best)) if s else 0.0)
        theta, value = _solve(empty, weights_nD, loss_n, np.ones(len(loss_n)), start)
        if value < least:
            best, least = theta, value
    if not np.isfinite(least):
        raise InputError(f"`{name}` fits none of these rows", hint="are the losses finite, and do weights sum to 1?")
    return replace(empty, theta_P=best)


def _middle(kind: Kind, domains: int) -> np.ndarray:
    return np.concatenate([kind.head, np.full(domains, kind.domain)])


def _solve(
    law: Parametric, weights_nD: np.ndarray, loss_n: np.ndarray, count_n: np.ndarray, start_P: np.ndarray
) -> tuple[np.ndarray, float]:
    kind = KINDS[law.name]
    y, root = (loss_n - law.middle) / law.scale, np.sqrt(count_n)

    def residuals(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, jacobian = kind.value(theta, weights_nD)
        return root * (value - y), root[:, None] * jacobian

    prior = _middle(kind, weights_nD.shape[1])
    return squares(residuals, start_P, prior, np.full(len(prior), PULL))
