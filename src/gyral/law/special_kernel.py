"""Laws that are no sum of terms, as functions of complex numbers, so that a complex step gives their derivatives.

What stands in `theta` and in a row is said at each; `forms` names them and cites them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SUM, KAPLAN, CONSTRAINED, BROKEN, SATURATING, LINK, ROUTED = range(7)
"""Codes of laws; a sum of terms is none of these."""


@njit(cache=True, error_model="numpy")
def _expm1(z: complex) -> complex:
    """exp(z) - 1 without cancellation."""
    a, b = z.real, z.imag
    half = np.sin(b / 2)
    return complex(np.expm1(a) * np.cos(b) - 2 * half * half, np.exp(a) * np.sin(b))


@njit(cache=True, error_model="numpy")
def _over(a: complex, b: complex) -> complex:
    """a / b; NaN for b = 0, where complex division would raise."""
    if b.real == 0.0 and b.imag == 0.0:
        return complex(np.nan, np.nan)
    return a / b


@njit(cache=True, error_model="numpy")
def special(code: int, theta: np.ndarray, x: np.ndarray) -> complex:
    """A law that is no sum of terms, of one row: its value.

    Parameters
    ----------
    theta : complex, P.  x : the row; see `forms` for what stands in it.
    """
    if code == KAPLAN:  # θ: log Nc, log Dc, α_N, α_D; x: log N, log D
        ratio = _over(theta[2], theta[3])
        return np.exp(theta[3] * np.log(np.exp(ratio * (theta[0] - x[0])) + np.exp(theta[1] - x[1])))
    if code == CONSTRAINED:  # θ: e, a, b, α, β, log R_D, log R_N; x: log N, log D, log unique
        epochs = max(np.exp(x[1] - x[2]) - 1, 0.0)
        unique = min(x[1], x[2])
        decay = np.exp(theta[5])
        data = unique + np.log(1 - decay * _expm1(_over(complex(-epochs, 0.0), decay)))
        most = _over(np.log(theta[3]) + theta[1] - np.log(theta[4]) - theta[2] + theta[4] * unique, theta[3])
        if x[0] > most.real:
            over = _expm1(x[0] - most)
            room = np.exp(theta[6])
            size = most + np.log(1 - room * _expm1(_over(-over, room)))
        else:
            size = x[0] + 0 * most
        return np.exp(theta[0]) + np.exp(theta[1] - theta[3] * size) + np.exp(theta[2] - theta[4] * data)
    if code == BROKEN:  # θ: e, a, c0, c1, log d, log f; x: log x
        width = np.exp(theta[5])
        bend = _over(x[0] - theta[4], width)
        soft = bend + np.log(1 + np.exp(-bend)) if bend.real > 0 else np.log(1 + np.exp(bend))
        return np.exp(theta[0]) + np.exp(theta[1] - theta[2] * x[0] - theta[3] * width * soft)
    if code == SATURATING:  # θ: e, log(L0 - E), a, γ, α; x: log x. (L - E) / (L0 - L)^α = A x^-γ
        low, room = np.exp(theta[0]), np.exp(theta[1])
        told = theta[2] - theta[3] * x[0]
        # in t = log of (L - E) / (L0 - L): t + (1 - α) log(L0 - L) = told
        t = told.real
        a, b = -700.0, 700.0
        for _ in range(200):
            gap = theta[1].real - (np.log1p(np.exp(-abs(t))) + max(t, 0.0))
            value = t + (1 - theta[4].real) * gap - told.real
            share = 1 / (1 + np.exp(-t))
            slope = 1 - (1 - theta[4].real) * share
            if value > 0:
                b = t
            else:
                a = t
            new = t - value / slope if slope > 1e-9 else 0.5 * (a + b)
            if not a < new < b:
                new = 0.5 * (a + b)
            if abs(new - t) < 1e-14 * max(1.0, abs(t)):
                t = new
                break
            t = new
        # one Newton step with complex parameters carries the derivative over
        gap_c = theta[1] - (np.log1p(np.exp(-abs(t))) + max(t, 0.0))
        share = 1 / (1 + np.exp(-t))
        root = t - _over(t + (1 - theta[4]) * gap_c - told, 1 - (1 - theta[4]) * share)
        if root.real > 0:
            return low + _over(room, 1 + np.exp(-root))
        return low + _over(room * np.exp(root), 1 + np.exp(root))
    if code == LINK:  # θ: log ε, log k, log γ; x: loss
        return np.exp(theta[0]) - np.exp(theta[1] - np.exp(theta[2]) * x[0])
    # ROUTED: θ: a, b, c, d, log E_start, log E_max; x: log N, E
    start, most = np.exp(theta[4]), np.exp(theta[5])
    one = complex(1.0, 0.0)
    inner = _over(one, _over(one, start) - _over(one, most))
    experts = -np.log(_over(one, x[1] - 1 + inner) + _over(one, most))
    return np.exp(theta[0] * x[0] + theta[1] * experts + theta[2] * x[0] * experts + theta[3])
