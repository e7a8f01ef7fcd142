"""What to train with a budget: how large, on how much, for how many epochs, in how many bits, and with its servings in mind.

One search over N: what is left of the budget after answering `serve_tokens` with a model of that size buys data, of which
`unique` is all there is and more is repetition. The answer is a region, not a number: losses are so flat about the best
size that all N within .1 % of the best loss lie within a factor of two or three, and forms that fit alike disagree by as
much. Where a table cannot carry a point, only the range is told, with the reasons.

**Source**: serving cost in the budget, Sardana et al., 2401.00448; repeated data, Muennighoff et al., 2305.16264; bits,
Kumar et al., 2411.04330, equation 9. Constants of the last two are assumed, and said so, unless the table shows its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.law import intervals
from gyral.law.choose import Law
from gyral.law.intervals import Interval
from gyral.law.runs import Columns
from gyral.law.sweep import Stop, stops

POINTS = 2_401
LEAST_DATA = 100.0
"""A model is none that saw less than this part of the least that was tried."""
FLAT = (0.001, 0.005)
SERVED_FLOPS = 2.0
"""FLOPs of a parameter and a token that is answered."""
REPEATS = 15.39
"""R*_D of `data_constrained` where a table shows none: one of many that fit as well (13 to 200)."""
BITS_WEIGHT, BITS_ACTIVATION, BITS_FULL = 2.6745, 2.2102, 16
REFUSING = ("bound", "optima", "far", "one size", "wide", "budgets")
"""Stops for which no point is told."""


class Budget(NamedTuple):
    """What may be spent.

    Attributes
    ----------
    flops : training and answering together.
    serve_tokens : that will be answered over the model's life.
    unique : tokens, examples or interactions there are; inf: as many as are wanted.
    bits : precisions that may be trained in; FLOPs of b bits count b / 16.
    usd_per_eflop : price of 1e18 FLOPs of 16 bits.
    """

    flops: float
    serve_tokens: float = 0.0
    unique: float = math.inf
    bits: tuple[int, ...] = (BITS_FULL,)
    usd_per_eflop: float | None = None


class Allocation(NamedTuple):
    """What a law says to do.

    Attributes
    ----------
    N, D, epochs, bits, loss : at the best; `loss_80` is where four of five such runs end.
    N_80 : the best N of four of five bootstraps, forms by weight.
    flat : share of loss → N within it.
    by_form : form → its own best N.
    refused : stops for which N is no more than the middle of a range.
    notes : what was assumed.
    """

    N: float
    D: float
    epochs: float
    bits: int
    loss: float
    loss_80: Interval
    N_80: Interval
    flat: dict[float, Interval]
    by_form: dict[str, float]
    refused: tuple[Stop, ...]
    stops: tuple[Stop, ...]
    usd: float | None
    notes: tuple[str, ...]

    @property
    def is_point(self) -> bool:
        """Whether one number may be told."""
        return not self.refused

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {name: getattr(self, name) for name in ("epochs", "bits", "loss", "by_form", "usd")}
        return {
            **({"N": self.N, "D": self.D} if self.is_point else {"N": None, "D": None}),
            **told,
            "loss_80": list(self.loss_80),
            "N_80": list(self.N_80),
            "flat": {f"{share:g}": list(where) for share, where in self.flat.items()},
            "refused": [each.rule for each in self.refused],
            "stops": [each._asdict() for each in self.stops],
            "notes": list(self.notes),
        }


def allocate(law: Law, budget: Budget, *, num: int = 800, seed: int = 0) -> Allocation:
    """Search a budget.

    Parameters
    ----------
    num : bootstraps for intervals.

    Raises
    ------
    InputError : the law does not read N and D, or the budget buys no model.
    """
    if not {"N", "D"} <= set(law.axes):
        raise InputError(
            "there is nothing to divide", why=f"the law reads {', '.join(law.axes)}", hint="a table with `N` and `D`"
        )
    notes = []
    tried = [(bits, *_asked(law, budget, bits)) for bits in budget.bits]
    bits, size_n, data_n, columns = min(tried, key=lambda each: float(np.nanmin(law.predict(each[-1]))))
    loss_n = law.predict(columns)
    i = int(np.nanargmin(loss_n))
    loss = float(loss_n[i])
    if math.isfinite(budget.unique) and "data_constrained" not in {each.fitted.form.name for each in law.members}:
        notes.append(f"assumed: data that is repeated is worth what R*_D = {REPEATS:g} says (Muennighoff et al. 2023)")
    if budget.bits != (BITS_FULL,):
        notes.append("assumed: fewer bits are worth fewer parameters as in Kumar et al. 2024, and FLOPs count by bits")
    if budget.serve_tokens:
        notes.append(f"a token that is answered takes {SERVED_FLOPS:g} N FLOPs")
    best_n, by_form = _best_sizes(law, columns, size_n, num, seed)
    width = _width(law, num, seed)
    target = {name: column[[i]] for name, column in columns.items() if name != "x"}
    told = stops(law, target, width)
    n_80 = intervals.percentiles(best_n, 0.8)
    flat = {share: _within(size_n, loss_n, loss * (1 + share)) for share in FLAT}
    loss_80 = intervals.percentiles(law.sample(target, num, seed)[:, 0], 0.8)
    usd = budget.flops / 1e18 * budget.usd_per_eflop if budget.usd_per_eflop else None
    refused = tuple(each for each in told if each.rule in REFUSING)
    epochs = max(1.0, float(data_n[i]) / budget.unique)
    return Allocation(
        float(size_n[i]),
        float(data_n[i]),
        epochs,
        bits,
        loss,
        loss_80,
        n_80,
        flat,
        by_form,
        refused,
        tuple(told),
        usd,
        tuple(notes),
    )


def _asked(law: Law, budget: Budget, bits: int) -> tuple[np.ndarray, np.ndarray, Columns]:
    """Sizes, the data that is left for each, and the columns of both."""
    columns = law.table.columns
    flops = float(np.median(columns["C"] / (columns["N"] * columns["D"])))
    cost = flops * bits / BITS_FULL
    most = budget.flops / cost
    if budget.serve_tokens:
        most = min(most, budget.flops / (SERVED_FLOPS * bits / BITS_FULL * budget.serve_tokens))
    least = float(columns["N"].min()) / 10
    if most <= least * 1.01:
        why = f"answering alone takes {SERVED_FLOPS * least * budget.serve_tokens:.2g} FLOP" if budget.serve_tokens else ""
        why = why or f"one token through {least:.2g} parameters takes {cost * least:.2g} FLOP"
        raise InputError(f"{budget.flops:.3g} FLOP buy no model", why=why, hint="a larger budget, or fewer tokens to answer")
    size_n = np.geomspace(least, most * 0.999, POINTS)
    data_n = (budget.flops - SERVED_FLOPS * bits / BITS_FULL * size_n * budget.serve_tokens) / (cost * size_n)
    keep = data_n >= float(columns["D"].min()) / LEAST_DATA
    size_n, data_n = size_n[keep], data_n[keep]
    if not len(size_n):
        raise InputError(f"{budget.flops:.3g} FLOP buy no model", hint="a larger budget")
    worth = size_n.copy()
    if bits != BITS_FULL:
        worth = worth * _worth(bits) / _worth(BITS_FULL)
    seen = data_n
    asked = {"N": worth, "D": seen}
    if "D_unique" in law.axes:
        asked["D_unique"] = np.minimum(data_n, budget.unique)
    elif math.isfinite(budget.unique):
        over = np.maximum(data_n / budget.unique - 1, 0)
        asked["D"] = np.minimum(data_n, budget.unique) * (1 - REPEATS * np.expm1(-over / REPEATS))
    for name in law.axes:
        if name not in asked and name not in ("x", "C"):
            asked[name] = np.full(len(size_n), float(np.median(columns[name])))
    return size_n, data_n, law.columns({**asked, "C": flops * size_n * data_n})


def _worth(bits: int) -> float:
    return float((1 - math.exp(-bits / BITS_WEIGHT)) * (1 - math.exp(-bits / BITS_ACTIVATION)))


def _best_sizes(law: Law, columns: Columns, size_n: np.ndarray, num: int, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """The best N of bootstraps of each member by weight, and of each form."""
    found: list[np.ndarray] = []
    by_form: dict[str, float] = {}
    for m, each in enumerate(law.members):
        share = max(1, round(num * each.weight))
        theta = intervals.bootstrap(each.fitted, each.rows, law.table.run, share, seed + m)
        told = intervals.of_losses(each.fitted, theta, columns)
        found.append(size_n[np.nanargmin(told, axis=1)])
        by_form.setdefault(each.fitted.form.name, float(size_n[np.nanargmin(each.fitted.predict(columns))]))
    return np.concatenate(found), by_form


def _width(law: Law, num: int, seed: int) -> float | None:
    best = law.members[0]
    return intervals.width_of_size(best.fitted, intervals.bootstrap(best.fitted, best.rows, law.table.run, num, seed))


def _within(size_n: np.ndarray, loss_n: np.ndarray, limit: float) -> Interval:
    inside = size_n[loss_n <= limit]
    return Interval(float(inside.min()), float(inside.max()))


def flops_of(text: str, usd_per_eflop: float | None = None, flops_per_s: float | None = None) -> float:
    """Read `1e22flop`, `500usd` or `48h` (also `30s`, `20m`, `3d`); money needs a price, time a rate.

    Raises
    ------
    InputError : it is none of these, or what it needs is not said.
    """
    units: Sequence[tuple[str, float]] = (
        ("flops", 1),
        ("flop", 1),
        ("usd", -1),
        ("s", 1),
        ("m", 60),
        ("h", 3600),
        ("d", 86400),
    )
    for unit, factor in units:
        if text.endswith(unit):
            try:
                value = float(text[: -len(unit)])
            except ValueError:
                break
            if not 0 < value < math.inf:
                break
            if unit.startswith("flop"):
                return value
            if unit == "usd":
                if not usd_per_eflop:
                    raise InputError("a budget in money needs a price", hint="`--usd-per-eflop`: dollars of 1e18 FLOPs")
                return value / usd_per_eflop * 1e18
            if not flops_per_s:
                raise InputError("a budget in time needs a rate", hint="`--flops-per-s`: what the machines do in a second")
            return value * factor * flops_per_s
    raise InputError(f"`{text}` is no budget", hint="write `1e22flop`, `500usd` or `48h`")
