"""Which of some variants are worth having, and which one a class of devices gets.

A variant is on the front if nothing tried is as good, as small and as fast, and better in one of the three. Times are measured,
so two within `ALIKE` of one another count as the same. A device on a battery gets the smallest variant that is allowed and
fits its memory (bytes that move are joules), a machine the fastest, and of those as fast the best.
"""

from __future__ import annotations

from collections.abc import Sequence

from gyral.config.sections import DeviceTier
from gyral.model.card import Variant
from gyral.model.metrics import SMALLER_IS_BETTER

ALIKE = 0.1
"""Relative difference of two times that says nothing: nets of one shape differed by .08, timed in turn on a busy machine."""
BATCH = "8"


def on_front(variants: Sequence[Variant], metric: str) -> list[bool]:
    """Of each, whether it is on the front; what was not measured is not."""
    measured = [each for each in variants if _is_measured(each)]
    return [_is_measured(each) and not any(dominates(other, each, metric) for other in measured) for each in variants]


def dominates(one: Variant, other: Variant, metric: str) -> bool:
    """Whether there is no reason to take the other."""
    goods = _goodness(one, metric), _goodness(other, metric)
    times = _time(one), _time(other)
    if goods[0] < goods[1] or one.size_bytes > other.size_bytes or times[0] > times[1] * (1 + ALIKE):
        return False
    return goods[0] > goods[1] or one.size_bytes < other.size_bytes or times[0] * (1 + ALIKE) < times[1]


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
    quality = variant.quality or 0.0
    return -quality if metric.endswith(SMALLER_IS_BETTER) else quality


def _time(variant: Variant) -> float:
    return variant.p50_ms[BATCH]
