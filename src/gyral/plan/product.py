"""Figures multiplied: intervals of independent factors, and the weakest of their sources."""

from __future__ import annotations

import math

from gyral.plan.figure import Figure, weakest


def product(unit: str, why: str, *figures: Figure) -> Figure:
    """The product of independent factors ≥ 0: the distances of their logarithms from the middle add up as squares."""
    value = math.prod(each.value for each in figures)
    down = math.hypot(*(_log(each.value, each.interval[0]) for each in figures))
    up = math.hypot(*(_log(each.interval[1], each.value) for each in figures))
    return Figure(value, unit, weakest(*figures), why, value * math.exp(-down), value * math.exp(up))


def inverse(figure: Figure) -> Figure:
    """One over a figure above 0."""
    low, high = figure.interval
    return figure._replace(
        value=1 / figure.value, unit=f"1/({figure.unit})", low=1 / high, high=1 / low if low > 0 else math.inf
    )


def scaled(figure: Figure, factor: float) -> Figure:
    """A figure times an exact number ≥ 0."""
    low, high = figure.interval
    return figure._replace(value=figure.value * factor, low=low * factor, high=high * factor)


def _log(high: float, low: float) -> float:
    if high <= low or high <= 0:
        return 0.0
    return math.log(high / low) if low > 0 else math.inf
