"""Rates of a machine from steps that were measured on it: least squares of log(predicted / measured), few constants at a time.

Damped Gauss–Newton on the logs of the rates with numeric derivatives; rates are shares, so they end at 1 (delays do not). Each
constant that is not named keeps its value. Whoever quotes an error says how many were named and on which rows: rows that were
calibrated on prove nothing (`gyral.plan` is tested leaving one model out).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from gyral.errors import InputError
from gyral.plan.hardware import Rates

DELAYS = ("launch_s", "hop_s")
FLOOR, STEP, ROUNDS = 0.02, 1e-3, 40


class Calibrated(NamedTuple):
    """Rates, and how far predictions of the same rows are off: mean and largest of |predicted / measured − 1|."""

    rates: Rates
    mean: float
    worst: float


def calibrate(
    predict: Callable[[Rates], Sequence[float]], measured: Sequence[float], names: Sequence[str], start: Rates | None = None
) -> Calibrated:
    """Fit the named rates.

    Parameters
    ----------
    predict : seconds of each row by some rates, [n].
    measured : seconds, [n], above zero.
    names : of `Rates`; at most as many as rows.

    Raises
    ------
    InputError : fewer rows than constants, or a time that is not above zero.
    """
    truth = np.asarray(measured, float)
    if len(truth) < len(names) or not (truth > 0).all():
        raise InputError(f"{len(names)} constants cannot be calibrated on {len(truth)} times", hint="give more measured steps")
    begun = start or Rates()
    low = np.log([1e-8 if name in DELAYS else FLOOR for name in names])
    high = np.log([1e-2 if name in DELAYS else 1.0 for name in names])

    def rates_of(x: np.ndarray) -> Rates:
        return replace(begun, **dict(zip(names, np.exp(x).tolist(), strict=True)))

    def misses(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(np.asarray(predict(rates_of(x)), float) / truth))

    x = np.clip(np.log([getattr(begun, name) for name in names]), low, high)
    found, damping = misses(x), 1e-2
    for _ in range(ROUNDS):
        slopes = np.stack([(misses(x + STEP * unit) - found) / STEP for unit in np.eye(len(names))], axis=1)
        normal = slopes.T @ slopes
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -slopes.T @ found)
        tried = np.clip(x + step, low, high)
        now = misses(tried)
        if now @ now < found @ found:
            is_done = found @ found - now @ now < 1e-10
            x, found, damping = tried, now, damping / 3
            if is_done:
                break
        else:
            damping *= 5
    off = np.abs(np.exp(found) - 1)
    return Calibrated(rates_of(x), float(off.mean()), float(off.max()))
