"""What to train with a budget: how large, on how much of what, for how many epochs, in how many bits, with servings in mind.

One search over N: what is left of the budget after answering `serve_tokens` with a model of that size buys data, of which
`unique` is all there is and more is repetition. The answer is a region, not a number: losses are so flat about the best
size that all N within .1 % of the best loss lie within a factor of two or three, and forms that fit alike disagree by as
much. Where a table cannot carry a point, only the range is told, with the reasons.

Where runs say what domains are worth, the same search chooses how much of each: for every amount of data there is one best
mixture within what there is of each domain (`mixture_allocate`), so nothing is searched twice, and laws read data in tokens of
the table's mean mixture.

**Source**: serving cost in the budget, Sardana et al., 2401.00448; repeated data, Muennighoff et al., 2305.16264; bits,
Kumar et al., 2411.04330, equation 9. Constants of the last two are assumed, and said so, unless the table shows its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gyral.errors import InputError
from gyral.law import intervals
from gyral.law.choose import Law
from gyral.law.fit import rows_of
from gyral.law.intervals import Interval
from gyral.law.mixture_allocate import NUM_WORTHS, REPEATS, Blend, Mixed, left_of, mixed, unique_of
from gyral.law.mixture_worth import Worth, domains_of
from gyral.law.runs import Columns
from gyral.law.sweep import Stop, stops

POINTS = 2_401
LEAST_DATA = 100.0
"""A model is none that saw less than this part of the least that was tried."""
FLAT = (0.001, 0.005)
SERVED_FLOPS = 2.0
"""FLOPs of a parameter and a token that is answered."""
KNOTS = 161
"""Amounts of data at which the best mixture of a bootstrap is found; between them its worth is interpolated."""
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
    unique_by : the same of each domain, by name; of those that are not named there are as many as are wanted.
    bits : precisions that may be trained in; FLOPs of b bits count b / 16.
    usd_per_eflop : price of 1e18 FLOPs of 16 bits.
    """

    flops: float
    serve_tokens: float = 0.0
    unique: float = math.inf
    bits: tuple[int, ...] = (BITS_FULL,)
    usd_per_eflop: float | None = None
    unique_by: Mapping[str, float] | None = None


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
    mixed : the mixture and each domain's epochs, where the runs say what domains are worth.
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
    mixed: Mixed | None = None

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
            **({} if self.mixed is None else self.mixed.as_json()),
        }


def allocate(law: Law, budget: Budget, worth: Worth | None = None, *, num: int = 800, seed: int = 0) -> Allocation:
    """Search a budget.

    Parameters
    ----------
    worth : what domains are worth; the law is then one of `worth.told`.
    num : bootstraps for intervals.

    Raises
    ------
    InputError : the law does not read N and D, the budget buys no model, or what there is is said of what is no domain.
    """
    if not {"N", "D"} <= set(law.axes):
        raise InputError(
            "there is nothing to divide", why=f"the law reads {', '.join(law.axes)}", hint="a table with `N` and `D`"
        )
    budget = budget if worth is not None else _of_one(budget, domains_of(law.table))
    blend = _blend(budget, worth)
    notes = []
    tried = [(bits, *_asked(law, budget, bits, blend)) for bits in budget.bits]
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
    worths = [] if worth is None else worth.bootstraps(NUM_WORTHS, seed)
    best_n, by_form = _best_sizes(law, columns, size_n, data_n, blend, worths, num, seed)
    width = _width(law, num, seed)
    target = {name: column[[i]] for name, column in columns.items() if name != "x"}
    told = stops(law, target, width)
    epochs, mixture = max(1.0, float(data_n[i]) / budget.unique), None
    if blend is not None:
        mixture = mixed(blend, worths, float(data_n[i]), lambda data: _with_data(law, target, data), FLAT)
        told += [mixture.stop] if mixture.stop is not None else []
        notes += mixture.notes
        seen = np.array([*mixture.weights.values()]) * float(data_n[i])
        epochs = float(data_n[i] / np.minimum(seen, blend.unique_D).sum())
    usd = budget.flops / 1e18 * budget.usd_per_eflop if budget.usd_per_eflop else None
    return Allocation(
        N=float(size_n[i]),
        D=float(data_n[i]),
        epochs=epochs,
        bits=bits,
        loss=loss,
        loss_80=intervals.percentiles(law.sample(target, num, seed)[:, 0], 0.8),
        N_80=intervals.percentiles(best_n, 0.8),
        flat={share: _within(size_n, loss_n, loss * (1 + share)) for share in FLAT},
        by_form=by_form,
        refused=tuple(each for each in told if each.rule in REFUSING),
        stops=tuple(told),
        usd=usd,
        notes=tuple(notes),
        mixed=mixture,
    )


def _of_one(budget: Budget, domains: tuple[str, ...]) -> Budget:
    """What there is of the only domain is what there is."""
    named = budget.unique_by or {}
    return budget._replace(unique=named[domains[0]], unique_by=None) if len(domains) == 1 and domains == (*named,) else budget


def _blend(budget: Budget, worth: Worth | None) -> Blend | None:
    if worth is None:
        if budget.unique_by:
            name = next(iter(budget.unique_by))
            why = "the table does not say what domains are worth"
            raise InputError(f"how much there is of `{name}` cannot be used", why=why, hint="`--unique TOKENS`, of all domains")
        return None
    if math.isfinite(budget.unique):
        first = worth.domains[0]
        why = f"the runs have the domains {', '.join(worth.domains)}"
        raise InputError(f"{budget.unique:g} tokens are of no domain", why=why, hint=f"`--unique {first}={budget.unique:g},…`")
    return Blend(worth, unique_of(budget.unique_by or {}, worth.domains))


def _with_data(law: Law, target: Columns, data_n: np.ndarray) -> np.ndarray:
    """Loss of one model with other data, n."""
    same = {name: np.full(len(data_n), column[0]) for name, column in target.items()}
    return law.predict({**same, "D": data_n})


def _asked(law: Law, budget: Budget, bits: int, blend: Blend | None) -> tuple[np.ndarray, np.ndarray, Columns]:
    """Sizes, the data that is left for each, and the columns of both."""
    columns = law.table.columns if blend is None else blend.worth.table.columns
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
    asked = {"N": worth, "D": data_n}
    if blend is not None:
        asked["D"] = blend.told(data_n)
    elif "D_unique" in law.axes:
        asked["D_unique"] = np.minimum(data_n, budget.unique)
    elif math.isfinite(budget.unique):
        asked["D"] = left_of(data_n, budget.unique)
    for name in law.axes:
        if name not in asked and name not in ("x", "C"):
            asked[name] = np.full(len(size_n), float(np.median(columns[name])))
    return size_n, data_n, law.columns({**asked, "C": flops * size_n * data_n})


def _worth(bits: int) -> float:
    return float((1 - math.exp(-bits / BITS_WEIGHT)) * (1 - math.exp(-bits / BITS_ACTIVATION)))


def _best_sizes(
    law: Law, columns: Columns, size_n: np.ndarray, data_n: np.ndarray, blend: Blend | None, worths: Sequence[Worth], num: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, float]]:  # fmt: skip
    """The best N of bootstraps of each member by weight, and of each form; each of `worths` has its part of them."""
    cases = [(law.table, columns)]
    if blend is not None:
        knots = np.geomspace(data_n.min(), data_n.max(), KNOTS)
        logs = [np.log(replace(blend, worth=each).told(knots)) for each in worths]
        mixtures = [np.exp(np.interp(np.log(data_n), np.log(knots), each)) for each in logs]
        cases = [(each.told, {**columns, "D": data}) for each, data in zip(worths, mixtures, strict=True)]
    found: list[np.ndarray] = []
    by_form: dict[str, float] = {}
    for m, each in enumerate(law.members):
        share, form = max(1, round(num * each.weight / len(cases))), each.fitted.form
        for c, (table, asked) in enumerate(cases):
            rows = each.rows if blend is None else rows_of(form, table.read_by(form.axes), table.loss, each.rows.w_n)
            theta = intervals.bootstrap(each.fitted, rows, table.run, share, seed + m + len(law.members) * c)
            told = intervals.of_losses(each.fitted, theta, asked)
            found.append(size_n[np.nanargmin(told, axis=1)])
        by_form.setdefault(form.name, float(size_n[np.nanargmin(each.fitted.predict(columns))]))
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
