"""What a plan costs a day, how sure that is, and which five assumptions move it most.

Prices are data: they are `assumed` until somebody writes his own down, and wide. A bill is a formula over named figures, so
that each can be moved while the others are held (a tornado), and all together by chance (the interval of the total).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import UsageError
from gyral.plan.figure import FOUR_OF_FIVE, Figure, weakest

Values = Mapping[str, Any]
"""Numbers by name, or arrays of as many draws."""
Formula = Callable[[Values], Mapping[str, Any]]
"""Values → parts of the bill, usd a day; only arithmetic, so that it takes arrays."""

DRAWS = 4_096
_ASKED = "list prices of large providers, from memory; yours is on your bill"

PRICES = {
    "usd_core_hour": Figure(0.04, "usd/h", "assumed", f"a virtual core with 4 GB; {_ASKED}", 0.015, 0.06),
    "usd_device_hour": Figure(2.5, "usd/h", "assumed", f"an accelerator of 80 GB; {_ASKED}", 1.5, 7.0),
    "usd_gb_month": Figure(0.023, "usd/GB/month", "assumed", f"object storage; {_ASKED}", 0.006, 0.025),
    "usd_gb_out": Figure(0.05, "usd/GB", "assumed", f"sent to people; {_ASKED}", 0.005, 0.09),
}
"""By name, as `day` wants them."""

NAMES = {
    "cores": "cores that serve, with spare and regions",
    "held_share": "share of them that an autoscaler holds on average",
    "ingest_cores": "cores that take events in",
    "requests": "requests of a day",
    "answer_bytes": "bytes of an answer",
    "lake_bytes": "bytes that come to the lake in a day",
    "keep_days": "days that they are kept",
    "trainings": "trainings of a day",
    "device_hours": "hours of accelerators of a training",
    **{name: price.why.partition(";")[0] for name, price in PRICES.items()},
}
"""What `day` needs to know, and what each is."""


class Swing(NamedTuple):
    """What one figure does to the total: usd a day with it low and with it high, all others held."""

    name: str
    figure: Figure
    at_low: float
    at_high: float

    @property
    def width(self) -> float:
        return abs(self.at_high - self.at_low)

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {"name": self.name, "usd_at_low": self.at_low, "usd_at_high": self.at_high, **self.figure.as_json()}


class Bill(NamedTuple):
    """Parts and total of a day in usd, and the swings, widest first."""

    parts: dict[str, Figure]
    total: Figure
    swings: list[Swing]

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        parts = {name: each.as_json() for name, each in self.parts.items()}
        return {"parts": parts, "total": self.total.as_json(), "swings": [each.as_json() for each in self.swings]}


def day(values: Values) -> dict[str, Any]:
    """Usd of a day of a service that learns from what it serves; `NAMES` is what it takes."""
    v = values
    return {
        "serving": 24 * v["cores"] * v["held_share"] * v["usd_core_hour"],
        "ingest": 24 * v["ingest_cores"] * v["usd_core_hour"],
        "answers": v["requests"] * v["answer_bytes"] / 1e9 * v["usd_gb_out"],
        "storage": v["lake_bytes"] * v["keep_days"] / 1e9 * v["usd_gb_month"] / 30.4,
        "training": v["trainings"] * v["device_hours"] * v["usd_device_hour"],
    }


def bill(figures: Mapping[str, Figure], formula: Formula = day, *, swings: int = 5, seed: int = 0) -> Bill:
    """Add a day up.

    Parameters
    ----------
    figures : what the formula takes, prices among them.
    swings : of how many figures; those that move the total most.

    Returns
    -------
    Intervals hold four of five draws of all figures at once, each lognormal on either side of its value.

    Raises
    ------
    UsageError : the formula wants a figure that is not there, or one is below 0 or not within its interval.
    """
    for name, each in figures.items():
        low, high = each.interval
        if not 0 <= low <= each.value <= high < math.inf:
            raise UsageError(f"`{name}` is {each.value:g} within {low:g} to {high:g}", hint="0 ≤ low ≤ value ≤ high")
    middle = {name: each.value for name, each in figures.items()}
    parts = _asked(formula, middle)
    total = float(sum(parts.values()))
    rng = np.random.default_rng(seed)
    drawn = {name: _draws(each, rng) for name, each in figures.items()}
    spread = {name: np.broadcast_to(each, DRAWS) for name, each in formula(drawn).items()}
    by = weakest(*figures.values())
    told = {name: _figure(float(value), spread[name], by) for name, value in parts.items()}
    return Bill(told, _figure(total, np.sum(list(spread.values()), axis=0), by), tornado(figures, formula)[:swings])


def tornado(figures: Mapping[str, Figure], formula: Formula = day) -> list[Swing]:
    """Every figure low and high with all others held, the widest swing first; those that move nothing are left out.

    Raises
    ------
    UsageError : as `bill`.
    """
    middle = {name: each.value for name, each in figures.items()}
    _asked(formula, middle)
    found = []
    for name, each in figures.items():
        low, high = (float(sum(formula({**middle, name: end}).values())) for end in each.interval)
        found.append(Swing(name, each, low, high))
    return sorted((each for each in found if each.width > 0), key=lambda each: -each.width)


def _asked(formula: Formula, values: Values) -> Mapping[str, Any]:
    try:
        return formula(values)
    except KeyError as error:
        name = str(error.args[0])
        raise UsageError(f"the bill needs `{name}`", why=NAMES.get(name, ""), hint="give it as a Figure") from None


def _draws(figure: Figure, rng: np.random.Generator) -> np.ndarray:
    low, high = figure.interval
    score = rng.standard_normal(DRAWS)
    if figure.value <= 0:  # no logarithm: a straight line to the high end
        return np.asarray(np.maximum(score, 0) / FOUR_OF_FIVE * high)
    down = math.log(figure.value / low) if low > 0 else math.log(figure.value / (1e-3 * figure.value))
    sigma = np.where(score < 0, down, math.log(high / figure.value)) / FOUR_OF_FIVE
    return np.asarray(figure.value * np.exp(sigma * score))


def _figure(value: float, draws: np.ndarray, by: Any) -> Figure:
    low, high = np.quantile(draws, [0.1, 0.9])
    return Figure(value, "usd/day", by, "four of five of 4,096 draws", min(float(low), value), max(float(high), value))
