"""Two small minimisers of smooth functions, for laws of mixtures: many rows, some twenty parameters, a weak prior on each.

`squares` (Levenberg–Marquardt) is for residuals, `bfgs` for anything that has a gradient. Both go down only, and end where a
step gains less than a share of the objective. The compiled solver of `kernel` is for laws of few parameters and robust
losses.

**Source**: Marquardt, J. SIAM 11 (1963); Nocedal and Wright, Numerical Optimization (2006), chapters 3 and 6.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MOST_STEPS = 200
ENOUGH = 1e-9
"""Share of the objective that a step must gain to be followed by another."""

Squares = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Smooth = Callable[[np.ndarray], tuple[float, np.ndarray]]


def squares(of: Squares, start_P: np.ndarray, prior_P: np.ndarray, pull_P: np.ndarray) -> tuple[np.ndarray, float]:
    """The least of Σ r²/2 + Σ pull (θ - prior)²/2 that lies below a start.

    Parameters
    ----------
    of : θ → residuals n and their derivatives n × P.

    Returns
    -------
    θ, and the objective there; inf where the start has none.
    """
    here = start_P.copy()

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            r, jacobian = of(theta)
            value = float(r @ r + pull_P @ (theta - prior_P) ** 2) / 2
        return (value if np.isfinite(value) else np.inf), r, jacobian

    value, r, jacobian = objective(here)
    damp, small = 1e-2, 0
    for _ in range(MOST_STEPS):
        if not np.isfinite(value):
            break
        curvature = jacobian.T @ jacobian + np.diag(pull_P)
        slope = jacobian.T @ r + pull_P * (here - prior_P)
        scale = np.diag(curvature) + 1e-12
        step = np.linalg.solve(curvature + np.diag(damp * scale), -slope)
        found, r_new, jacobian_new = objective(here + step)
        if found <= value:
            small = small + 1 if value - found <= ENOUGH * value else 0
            here, value, r, jacobian = here + step, found, r_new, jacobian_new
            damp = max(damp / 5, 1e-9)
            if small >= 2:
                break
        else:
            damp *= 5
            if damp > 1e9:
                break
    return here, value


def bfgs(of: Smooth, start_P: np.ndarray, most_steps: int = MOST_STEPS) -> tuple[np.ndarray, float]:
    """A minimum of a smooth function below a start; θ, and its value.

    Parameters
    ----------
    of : θ → value and gradient P; an infinite value is stepped back from.
    """
    here = start_P.copy()
    value, slope = of(here)
    inverse = np.eye(len(here)) / max(1.0, float(np.linalg.norm(slope)))
    small = 0
    for _ in range(most_steps):
        step = -inverse @ slope
        gain = float(step @ slope)
        if not gain < 0:
            break
        size = min(1.0, 2.0 / float(np.abs(step).max()))  # logarithms: a factor of e² at once is far
        for _ in range(30):
            found, slope_new = of(here + size * step)
            if found <= value + 1e-4 * size * gain:
                break
            size /= 3
        else:
            break
        moved, bent = size * step, slope_new - slope
        small = small + 1 if value - found <= ENOUGH * (abs(value) + 1) * 100 else 0
        here, value, slope = here + moved, found, slope_new
        if small >= 2:
            break
        along = float(moved @ bent)
        if along > 1e-12:
            turned = inverse @ bent
            inverse += np.outer(moved, moved) * (along + float(bent @ turned)) / along**2
            inverse -= (np.outer(turned, moved) + np.outer(moved, turned)) / along
    return here, value
