"""Which of some variants are worth having, and which one a class of devices gets.

A variant is on the front if nothing tried is as good, as small and as fast, and better in one of the three. Times are measured,
so two within `ALIKE` of one another count as the same. A device on a battery gets the smallest variant that is allowed and
fits its memory (bytes that move are joules), a machine the fastest, and of those as fast the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gyral.config.sections import DeviceTier
from gyral.model.card import Variant
from gyral.model.metrics import SMALLER_IS_BETTER

ALIKE = 0.1
"""Relative difference of two times that says nothing: nets of one shape differed by .08, timed in turn on a busy machine."""
BATCH = "8"


class Point(NamedTuple):
    """What something is worth and costs; a cost that nobody looks at is 0 of all."""

    goodness: float
    size_bytes: int = 0
    time_ms: float = 0.0


def on_front(points: Sequence[Point | None]) -> list[bool]:
    """Of each, whether it is on the front; None, what was not measured, is not."""
    measured = [each for each in points if each is not None]
    return [each is not None and not any(dominates(other, each) for other in measured) for each in points]


def dominates(one: Point, other: Point) -> bool:
    """Whether there is no reason to take the other."""
    if one.goodness < other.goodness or one.size_bytes > other.size_bytes or one.time_ms > other.time_ms * (1 + ALIKE):
        return False
    is_better = one.goodness > other.goodness or one.size_bytes < other.size_bytes
    return is_better or one.time_ms * (1 + ALIKE) < other.time_ms


def goodness(quality: float, metric: str) -> float:
    """A quality, so that more is better."""
    return -quality if metric.endswith(SMALLER_IS_BETTER) else quality


def point_of(variant: Variant, metric: str) -> Point | None:
    """Of a variant; None: it was not measured."""
    if not _is_measured(variant):
        return None
    return Point(_goodness(variant, metric), variant.size_bytes, _time(variant))


def chosen(tier: DeviceTier, variants: Sequence[Variant], metric: str) -> Variant | None:
    """The variant for a class of devices; None: none that is allowed fits."""
    fit = [each for each in variants if _is_measured(each) and not each.why and each.memory_bytes <= tier.memory_bytes]
    if not fit:
        return None
    if tier.is_on_battery:
        return min(fit, key=lambda each: (each.size_bytes, -_goodness(each, metric)))
    fastest = min(map(_time, fit))
    return max((each for each in fit if _time(each) <= fastest * (1 + ALIKE)), key=lambda each: _goodness(each, metric))


def _is_measured(variant: Variant) -> bool:
    return variant.quality is not None and BATCH in variant.p50_ms


def _goodness(variant: Variant, metric: str) -> float:
    return goodness(variant.quality or 0.0, metric)


def _time(variant: Variant) -> float:
    return variant.p50_ms[BATCH]
