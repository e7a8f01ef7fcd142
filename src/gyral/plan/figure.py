"""A number of a plan, with how sure it is and where it is from. None is told without."""

from __future__ import annotations

from typing import Literal, NamedTuple

By = Literal["measured", "counted", "calibrated", "sheet", "assumed"]
_WEAKEST: tuple[By, ...] = ("assumed", "sheet", "calibrated", "measured", "counted")

FOUR_OF_FIVE = 1.2816
"""Standard deviations from its mean within which four of five draws of a normal distribution lie."""


class Figure(NamedTuple):
    """One number.

    Attributes
    ----------
    low, high : where four of five such numbers lie; both the value where it is exact.
    unit : as it is written behind it: `s`, `bytes`, `FLOP`, `usd`, `1/s`, ``.
    by : `measured` on the machine meant, `counted` exactly, `calibrated` from other measurements, from a maker's `sheet`, or
        `assumed`.
    why : from what, in a few words.
    """

    value: float
    unit: str = ""
    by: By = "assumed"
    why: str = ""
    low: float = float("nan")
    high: float = float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high; the value where neither was said."""
        return (self.value if self.low != self.low else self.low, self.value if self.high != self.high else self.high)

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        low, high = self.interval
        return {"value": self.value, "unit": self.unit, "low": low, "high": high, "by": self.by, "why": self.why}


Plan = dict[str, Figure]
"""What would be taken, by name."""


def weakest(*figures: Figure) -> By:
    """What a number that follows from these rests on: the least sure of their sources."""
    return min((each.by for each in figures), key=_WEAKEST.index, default="assumed")
